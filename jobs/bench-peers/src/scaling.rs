//! How many jobs run per second with more worker processes, and what they and the server need of the processors.

use std::{
    env,
    io::{BufRead, BufReader, Lines, Write, stdin},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    engine::Engine,
    processor::Times,
    system::{Kind, System, Worker, count},
    table,
};

const PROCESSES: [usize; 4] = [1, 2, 4, 8];

/// How many jobs each process has run before the time is taken.
const WARM_UP: u64 = 100;

const MEASURED_FOR: Duration = Duration::from_secs(5);

const QUEUE: &str = "scaling";

/// What a number of processes did.
pub(crate) struct Column {
    pub(crate) processes: usize,
    pub(crate) jobs: f64,
    pub(crate) took: Duration,
    pub(crate) times: Times,
}

/// Measures, and prints the table of an engine.
pub(crate) async fn measure(engine: &Engine, jobs: u64) {
    engine.postlude(QUEUE).await.load(jobs).await;
    eprintln!("{}: has loaded {jobs} jobs", engine.name());
    // The database writes out what was loaded.
    sleep(Duration::from_secs(5)).await;
    let (mut columns, mut left) = (Vec::new(), jobs);
    for processes in PROCESSES {
        let mut workers: Vec<_> = (0..processes).map(|_| Process::start()).collect();
        for worker in &mut workers {
            while worker.count() < WARM_UP {
                sleep(Duration::from_millis(10)).await;
            }
        }
        let pids: Vec<u32> = workers.iter().map(|worker| worker.child.id()).collect();
        let (before, ran_before, start) = (Times::read(engine.server_pid(), &pids), all(&mut workers), Instant::now());
        sleep(MEASURED_FOR).await;
        let (ran, took) = (all(&mut workers), start.elapsed());
        let times = Times::read(engine.server_pid(), &pids).since(before);
        for worker in workers {
            left = left.saturating_sub(worker.stop());
        }
        assert!(left > 0, "WAITING is too low: all jobs have run");
        columns.push(Column { processes, jobs: (ran - ran_before) as f64, took, times });
        eprintln!("{}: {processes} processes, {left} jobs left", engine.name());
    }
    table::print_scaling(&engine.name(), &columns);
}

fn all(workers: &mut [Process]) -> u64 {
    workers.iter_mut().map(Process::count).sum()
}

/// A process with a worker: this program again.
struct Process {
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start() -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        let mut child = command.env("MEASURE", "worker").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (questions, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, questions, answers: BufReader::new(answers).lines() }
    }

    /// How many jobs it has run.
    fn count(&mut self) -> u64 {
        writeln!(self.questions).unwrap();
        self.answers.next().expect("the worker has not ended").unwrap().parse().unwrap()
    }

    /// Ends it. Returns how many jobs it has run.
    fn stop(mut self) -> u64 {
        let count = self.count();
        drop(self.questions);
        assert!(self.child.wait().unwrap().success());
        count
    }
}

/// Works until its input ends, and answers each line of it with the number of jobs that have run.
pub(crate) async fn work(engine: &Engine) {
    let mut system = engine.postlude(QUEUE).await;
    let stop = system.work(Kind::Backlog, Worker::Elsewhere).await.expect("there is a worker elsewhere");
    // This is not a thread of the runtime, so it may wait.
    for _question in stdin().lines() {
        println!("{}", count());
    }
    stop().await;
}
