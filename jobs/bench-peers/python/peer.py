"""Celery in the comparison: its tasks, and a producer that does what it is told on its input.

    celery -A peer worker --queues backlog
    python peer.py
"""
import os
import struct
import sys
import time

from celery import Celery, group
from celery.signals import worker_process_init, worker_ready
from kombu import Queue

PREFIX = os.environ["QUEUE_PREFIX"]
app = Celery("peer", broker=os.environ["BROKER_URL"])
app.conf.update(
    task_ignore_result=True,
    # A task whose worker dies runs again, as with the others.
    task_acks_late=True,
    # Each of 4 processes has 4 tasks: 16 are in hand.
    worker_concurrency=4,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
)
if os.environ["BROKER_URL"].startswith("amqp"):
    # As postlude-jobs.
    quorum = {"x-queue-type": "quorum"}
    app.conf.task_queues = [Queue(PREFIX + name, queue_arguments=quorum) for name in ("backlog", "probe")]
    app.conf.broker_transport_options = {"confirm_publish": True}
else:
    app.conf.task_queues = [Queue(PREFIX + name) for name in ("backlog", "probe")]

starts = None


def started(sent):
    os.write(starts, struct.pack("<QQ", sent, time.monotonic_ns()))


@worker_process_init.connect
def open_starts(**_):
    global starts
    starts = os.open(os.environ["STARTS"], os.O_WRONLY)


@worker_ready.connect
def tell_ready(**_):
    open_starts()
    started(0)


@app.task
def backlog(sent):
    started(sent)


@app.task
def probe(sent):
    started(sent)


def push(task):
    sent = time.monotonic_ns()
    task.apply_async((sent,), queue=PREFIX + task.__name__)
    return sent, time.monotonic_ns()


def push_many(jobs):
    sent = time.monotonic_ns()
    group(backlog.s(sent) for _ in range(jobs)).apply_async(queue=PREFIX + "backlog")


def pushes(times):
    start = time.monotonic_ns()
    for _ in range(times):
        push(backlog)
    return (time.monotonic_ns() - start,)


def batches(times, jobs):
    start = time.monotonic_ns()
    for _ in range(times):
        push_many(jobs)
    return (time.monotonic_ns() - start,)


def obey(order, *numbers):
    if order in ("backlog", "probe"):
        return push({"backlog": backlog, "probe": probe}[order])
    return {"pushes": pushes, "batches": batches}[order](*map(int, numbers))


if __name__ == "__main__":
    for line in sys.stdin:
        print(*obey(*line.split()), flush=True)
