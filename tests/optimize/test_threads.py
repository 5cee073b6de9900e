from threadpoolctl import threadpool_info, threadpool_limits

from nbcompress.optimize.threads import one_thread


def blas_threads() -> set[int]:
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_one_thread_inside_and_as_before_after() -> None:
    with threadpool_limits(2, user_api="blas"):
        with one_thread():
            assert blas_threads() <= {1}
        assert blas_threads() <= {2}
