"""The job of the command around the loop: read, train, finish, and say what happens."""
