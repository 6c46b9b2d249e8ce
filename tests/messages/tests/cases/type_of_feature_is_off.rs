//! `Schedule` needs the feature `cron`, which is off here.
use postlude::Schedule;

fn main() {
    let _ = Schedule::parse("0 3 * * *");
}
