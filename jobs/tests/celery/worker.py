"""The Celery application of the tests: what Rust sends, these tasks run.

    celery -A worker worker
"""
import json
import os
import time

from celery import Celery
from kombu import Queue

app = Celery("worker", broker=os.environ["BROKER_URL"], backend=os.environ["RESULT_URL"])
app.conf.update(
    # The queue `ranked` has priorities on RabbitMQ. Redis needs nothing for that.
    task_queues=[Queue("celery"), Queue("other"), Queue("ranked", queue_arguments={"x-max-priority": 10})],
    worker_prefetch_multiplier=1,
    task_track_started=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options=json.loads(os.environ.get("BROKER_OPTIONS", "{}")),
    result_backend_transport_options=json.loads(os.environ.get("RESULT_OPTIONS", "{}")),
)


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


@app.task
def echo(*args, **kwargs):
    return [args, kwargs]


@app.task
def kinds(*args):
    return [type(arg).__name__ for arg in args]


@app.task
def add(x, y):
    return x + y


@app.task
def invoice(order, copy=False):
    return f"order {order}, copy {copy}"


@app.task(bind=True)
def request(self, *args):
    names = [
        "id", "root_id", "parent_id", "correlation_id", "origin", "argsrepr", "kwargsrepr", "headers", "timelimit", "eta",
        "expires", "retries", "lang",
    ]
    found = {name: getattr(self.request, name, None) for name in names}
    found["queue"] = self.request.delivery_info["routing_key"]
    found["priority"] = self.request.delivery_info["priority"]
    found["task"] = self.name
    return found


@app.task(bind=True)
def is_due(self):
    """Whether it started no earlier than it was due."""
    from datetime import datetime, timezone

    return datetime.now(timezone.utc) >= datetime.fromisoformat(self.request.eta)


@app.task(bind=True, max_retries=5)
def third_time(self, name):
    """Fails twice."""
    if self.request.retries < 2:
        raise self.retry(exc=ValueError("not yet"), countdown=0)
    return f"{name}, after {self.request.retries} retries"


@app.task(bind=True, max_retries=1)
def retried_later(self):
    raise self.retry(exc=ValueError("not yet"), countdown=3000)


@app.task
def fails(text):
    raise ValueError(text)


@app.task(bind=True)
def progress(self, go_on):
    """Sets a state of its own, and waits for a file."""
    self.update_state(state="PROGRESS", meta={"page": 3})
    wait_for(go_on)


@app.task
def waits(go_on):
    wait_for(go_on)


@app.task(acks_late=True)
def record(path, word, go_on=None):
    """Writes a line, and waits for a file."""
    with open(path, "a") as log:
        log.write(word + "\n")
    if go_on:
        wait_for(go_on)
