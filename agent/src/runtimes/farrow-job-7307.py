def increment(x):
    return x + 1
