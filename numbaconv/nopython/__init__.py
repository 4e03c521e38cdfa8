"""What compiled code of users calls: overloads, a file for each kind of function, and kernels that run serially.

`numbaconv._extension` imports a file when compiled code calls one of the functions in it.
"""
