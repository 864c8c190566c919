"""Stops the private test server a while after the last test process has ended.

    keeper.py USERS_LOCK KEEPER_LOCK CLUSTER_DIR SECONDS

Test processes hold a shared lock on USERS_LOCK for as long as they live. A process cannot do anything at its own end
(it may be killed), so this one watches from outside. It waits SECONDS, because a test run is many processes one after
another. There is one keeper at a time: whoever holds KEEPER_LOCK.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time


def lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def postmaster(cluster):
    """The process id of the cluster's server, or None."""
    try:
        with open(os.path.join(cluster, "postmaster.pid")) as file:
            pid = int(file.readline())
    except (OSError, ValueError):
        return None
    # After a crash the file stays, and the number may be another process by now.
    command = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True).stdout
    return pid if cluster in command else None


def main():
    users_path, keeper_path, cluster, seconds = sys.argv[1:]
    # Ctrl-C is for the tests.
    os.setsid()
    keeper = open(keeper_path, "w")
    if not lock(keeper):
        return
    users = open(users_path)
    idle = 0
    while True:
        time.sleep(1)
        if not lock(users):
            idle = 0
            continue
        idle += 1
        if idle >= int(seconds):
            break
        fcntl.flock(users, fcntl.LOCK_UN)
    # From here on new test processes wait for the users' lock, and then find no server and no keeper.
    pid = postmaster(cluster)
    if pid is not None:
        os.kill(pid, signal.SIGINT)
        while postmaster(cluster) is not None:
            time.sleep(0.05)
    keeper.close()
    users.close()


if __name__ == "__main__":
    main()
