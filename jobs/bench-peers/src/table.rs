//! The table of an engine.

use crate::{
    measure::{Case, Row},
    processor::cores,
    scaling::Column,
};

fn median(figures: &[f64]) -> Option<f64> {
    percentile(figures, 50)
}

fn percentile(figures: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
}

/// A rate, with separators of thousands.
fn rate(figure: Option<f64>) -> String {
    let Some(figure) = figure else { return "–".to_owned() };
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn one_decimal(figure: Option<f64>) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.1}"))
}

/// Prints the table: a column for each system and each number of waiting jobs.
pub(crate) fn print(engine: &str, cases: &[Case], floor: &str, one: &[f64], many: &[f64]) {
    let mut header = format!("| {engine} |");
    for case in cases {
        header += &format!(" {}, {} waiting |", case.system.name(), rate(Some(case.waiting as f64)));
    }
    println!("\n{header} {floor} |\n|---|{}---|", "---|".repeat(cases.len()));
    let line = |title: &str, cell: &dyn Fn(&Case) -> String, floor: String| {
        let cells: Vec<_> = cases.iter().map(cell).collect();
        println!("| {title} | {} | {floor} |", cells.join(" | "));
    };
    let figure = |case: &Case, row| median(case.figures.get(&row).map_or(&[][..], Vec::as_slice));
    line("jobs pushed per second, one at a time", &|case| rate(figure(case, Row::PushOne)), rate(median(one)));
    line("jobs pushed per second, 100 at a time", &|case| rate(figure(case, Row::PushMany)), rate(median(many)));
    if cases.iter().any(|case| case.figures.contains_key(&Row::PushBuffers)) {
        line(
            "buffers read per job pushed, 100 at a time",
            &|case| one_decimal(figure(case, Row::PushBuffers)),
            String::new(),
        );
    }
    line("jobs run per second", &|case| rate(figure(case, Row::Jobs)), String::new());
    if cases.iter().any(|case| case.figures.contains_key(&Row::Buffers)) {
        line("buffers read per job run", &|case| one_decimal(figure(case, Row::Buffers)), String::new());
    }
    for (title, row) in [
        ("idle, pushed by the same program", Row::IdleHere),
        ("idle, pushed by another one", Row::IdleElsewhere),
        ("200 a second, pushed by the same program", Row::BusyHere),
        ("200 a second, pushed by another one", Row::BusyElsewhere),
    ] {
        if cases.iter().all(|case| !case.delays.contains_key(&row)) {
            continue;
        }
        let cell = |case: &Case| {
            let delays = case.delays.get(&row).map_or(&[][..], Vec::as_slice);
            match (percentile(delays, 50), percentile(delays, 99)) {
                (Some(half), Some(most)) => format!("{half:.1}, {most:.1}"),
                _ => "–".to_owned(),
            }
        };
        line(&format!("ms from the push to the start, p50 and p99, {title}"), &cell, String::new());
    }
}

/// Prints the table of an engine: a column for each number of processes.
pub(crate) fn print_scaling(engine: &str, columns: &[Column]) {
    let numbers: Vec<_> = columns.iter().map(|column| column.processes.to_string()).collect();
    println!("\n| {engine}, worker processes | {} |\n|---|{}", numbers.join(" | "), "---|".repeat(columns.len()));
    let line = |title: &str, cell: &dyn Fn(&Column) -> String| {
        println!("| {title} | {} |", columns.iter().map(cell).collect::<Vec<_>>().join(" | "));
    };
    line("jobs run per second", &|column| rate(Some(column.jobs / column.took.as_secs_f64())));
    for (title, of) in [
        ("µs of processor time per job, server", (|column| column.times.server) as fn(&Column) -> f64),
        ("µs of processor time per job, workers", |column| column.times.workers),
    ] {
        line(title, &|column| rate(Some(1e6 * of(column) / column.jobs)));
    }
    let title = format!("% of {} processors: server, workers, other programs, idle", cores());
    line(&title, &|column| {
        let times = column.times;
        let percents = [times.server, times.workers, times.others(), times.idle].map(|used| times.percent(used));
        percents.map(|percent| format!("{percent:.0}")).join(", ")
    });
}
