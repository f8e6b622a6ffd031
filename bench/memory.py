"""Memory that the machine has at hand.

A virtual machine may give its free memory back to its host (free page reporting of `virtio_balloon`), here within two
seconds. Whoever touches such a page anew waits until the host has found another: 100 MB written to a new file took 230 ms
then, and 16 ms in memory that had been used a moment before. So a work that needs new memory told of what had run
before it, and not of who did it.
"""

import mmap

PAGE = 4096


def have_at_hand(n_bytes):
    """Touches so much memory and gives it back to the kernel, whose it is for a second or two."""
    with mmap.mmap(-1, n_bytes) as memory:
        for start in range(0, n_bytes, PAGE):
            memory[start] = 1
