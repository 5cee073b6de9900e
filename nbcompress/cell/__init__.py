"""What is one trial of a cell?"""
