//! Celery, on Redis and on RabbitMQ: a producer and workers in Python, which use the same clock.

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, Lines, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::{sleep, timeout};

use crate::{
    amqp::copy_message,
    system::{Kind, Pushed, Stop, System, Worker, started_at},
};

/// How long a worker may take to start and to end.
const WORKER_LIMIT: Duration = Duration::from_secs(60);

/// How many workers have said that they are ready.
static READY: AtomicUsize = AtomicUsize::new(0);

/// Puts copies of the first message of a queue behind it, each with its own tag, under which it is acknowledged.
const COPY: &str = "local message = redis.call('LINDEX', KEYS[1], 0)
    local tag = string.match(message, '\"delivery_tag\": \"([^\"]*)\"')
    local from, to = string.find(message, tag, 1, true)
    local before, after = string.sub(message, 1, from - 1), string.sub(message, to + 1)
    for number = 1, ARGV[1] do
        redis.call('LPUSH', KEYS[1], before .. redis.sha1hex(ARGV[2] .. number) .. after)
    end";

pub(crate) struct Celery {
    broker: String,
    prefix: String,
    starts: PathBuf,
    /// It ends when its input does.
    _producer: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Celery {
    /// With queues of this name.
    pub(crate) fn new(broker: &str, name: &str, folder: &Path) -> Self {
        let prefix = &format!("celery-{name}-");
        let starts = folder.join(format!("starts-{prefix}"));
        assert!(Command::new("mkfifo").arg(&starts).status().unwrap().success());
        // It is open for writing as well, so that it never ends.
        let pipe = File::options().read(true).write(true).open(&starts).unwrap();
        std::thread::spawn(move || note_starts(pipe));
        let mut command = python(broker, prefix, &starts);
        let mut producer = command.arg("peer.py").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, answers) = (producer.stdin.take().unwrap(), producer.stdout.take().unwrap());
        Self {
            broker: broker.to_owned(),
            prefix: prefix.to_owned(),
            starts,
            _producer: producer,
            orders,
            answers: BufReader::new(answers).lines(),
        }
    }

    /// Tells the producer what to do. Returns the numbers that it answers.
    fn order(&mut self, order: &str) -> Vec<u64> {
        writeln!(self.orders, "{order}").unwrap();
        let answer = self.answers.next().expect("the producer has not ended").unwrap();
        answer.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }
}

/// Python with Celery, which `scripts/celery-python` makes.
fn python(broker: &str, prefix: &str, starts: &Path) -> Command {
    let mut command = Command::new(env::var("CELERY_PYTHON").expect("CELERY_PYTHON is a Python that has Celery"));
    command
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("BROKER_URL", broker)
        .env("QUEUE_PREFIX", prefix)
        .env("STARTS", starts)
        .stdin(Stdio::null());
    command
}

/// Notes what the workers tell: what has started, and when.
fn note_starts(mut pipe: File) {
    let mut record = [0; 16];
    while pipe.read_exact(&mut record).is_ok() {
        let [sent, start] = [&record[..8], &record[8..]].map(|half| u64::from_le_bytes(half.try_into().unwrap()));
        if sent == 0 {
            READY.fetch_add(1, Ordering::SeqCst);
        } else {
            started_at(sent, start);
        }
    }
}

impl System for Celery {
    fn name(&self) -> &'static str {
        "Celery"
    }

    /// Copies a message at the broker: the producer would take half an hour.
    fn load(&mut self, jobs: u64) -> BoxFuture<'_, ()> {
        async move {
            self.order("backlog");
            let queue = format!("{}{}", self.prefix, Kind::Backlog.name());
            if self.broker.starts_with("redis") {
                let client = redis::Client::open(self.broker.as_str()).unwrap();
                let mut connection = client.get_multiplexed_async_connection().await.unwrap();
                let script = redis::Script::new(COPY);
                for part in 0..jobs.div_ceil(10_000) {
                    let copies = (jobs - part * 10_000).min(10_000);
                    script.key(&queue).arg(copies).arg(part).invoke_async::<()>(&mut connection).await.unwrap();
                }
            } else {
                copy_message(&self.broker, &queue, jobs).await;
            }
        }
        .boxed()
    }

    fn push(&mut self, kind: Kind) -> BoxFuture<'_, Pushed> {
        async move {
            let answer = self.order(kind.name());
            Pushed { sent: answer[0], returned: answer[1] }
        }
        .boxed()
    }

    fn push_many(&mut self, jobs: usize) -> BoxFuture<'_, ()> {
        self.time_batches(1, jobs).map(drop).boxed()
    }

    fn time_pushes(&mut self, pushes: u32) -> BoxFuture<'_, Duration> {
        async move { Duration::from_nanos(self.order(&format!("pushes {pushes}"))[0]) }.boxed()
    }

    fn time_batches(&mut self, batches: u32, jobs: usize) -> BoxFuture<'_, Duration> {
        async move { Duration::from_nanos(self.order(&format!("batches {batches} {jobs}"))[0]) }.boxed()
    }

    fn work(&mut self, kind: Kind, worker: Worker) -> BoxFuture<'_, Option<Stop>> {
        async move {
            if worker == Worker::Here {
                return None;
            }
            let ready = READY.load(Ordering::SeqCst);
            let queue = format!("{}{}", self.prefix, kind.name());
            let quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"];
            let mut command = python(&self.broker, &self.prefix, &self.starts);
            command.args(["-m", "celery", "-A", "peer", "worker", "--queues", &queue]).args(quiet);
            let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let comes_up = async {
                while READY.load(Ordering::SeqCst) == ready {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(WORKER_LIMIT, comes_up).await.expect("the worker starts");
            let stop = async move {
                // It ends the processes of its pool, too.
                assert!(Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap().success());
                let ends = async {
                    while process.try_wait().unwrap().is_none() {
                        sleep(Duration::from_millis(5)).await;
                    }
                };
                timeout(WORKER_LIMIT, ends).await.expect("the worker ends");
            };
            Some(Box::new(move || stop.boxed()) as Stop)
        }
        .boxed()
    }
}
