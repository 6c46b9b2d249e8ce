//! The runbook knows each alert, its links lead somewhere, and its commands work.

use postlude::{RetryPolicy, Task, TaskRegistry};
use postlude_console::StatusRouter;

use crate::support::{ask, serve_status};

const RUNBOOK: &str = include_str!("../../docs/runbook.md");
const RULES: &str = include_str!("../../dashboards/alerts.yml");

/// The anchor of a heading, as rustdoc makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn has_each_alert_once() {
    let rules: Vec<_> = RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let rows: Vec<_> =
        RUNBOOK.lines().filter_map(|line| line.strip_prefix("| `Postlude")?.split_once('`')).map(|row| row.0).collect();
    assert_eq!(rows, rules.iter().map(|rule| rule.trim_start_matches("Postlude")).collect::<Vec<_>>());
    assert!(rows.len() > 10, "they were found");
}

#[test]
fn links_to_its_sections() {
    let headings = RUNBOOK.lines().filter_map(|line| line.strip_prefix("## "));
    let anchors: Vec<_> = headings.map(anchor).collect();
    let links: Vec<_> =
        RUNBOOK.split("](#").skip(1).filter_map(|rest| rest.split_once(')')).map(|link| link.0).collect();
    assert!(links.len() > 20, "they were found");
    for link in links {
        assert!(anchors.iter().any(|anchor| anchor == link), "#{link} is none of {anchors:?}");
    }
}

/// The page links each kind of finding to a section, and shows those that the person on call needs.
#[test]
fn has_the_sections_to_which_the_page_links() {
    const LINKS: &str = include_str!("../../src/assets/links.js");
    const PAGE: &str = include_str!("../../src/assets/runbook.js");
    let begin = LINKS.find("const PARTS = {").unwrap();
    let end = begin + LINKS[begin..].find("};").unwrap();
    let parts: Vec<_> = LINKS[begin..end].split('"').skip(1).step_by(2).collect();
    assert!(parts.len() > 12, "they were found: {parts:?}");
    let rest = RUNBOOK.find("\n## The operator's routes").unwrap();
    let anchors = |text: &str| text.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect::<Vec<_>>();
    let shown = anchors(&RUNBOOK[..rest]);
    for part in parts {
        assert!(shown.iter().any(|anchor| anchor == part), "#{part} is none of {shown:?}");
    }
    for part in anchors(&RUNBOOK[rest..]) {
        assert!(PAGE.contains(&format!("\"{part}\"")), "the page links to #{part}, and does not show it");
    }
}

/// The commands for these routes: the method and the path of each.
fn commands() -> Vec<(&'static str, &'static str)> {
    let spans = RUNBOOK.split('`').filter_map(|span| span.strip_prefix("ops "));
    let commands = spans.map(|command| {
        let command = command.split(" | ").next().unwrap_or_default();
        let (path, method) = command.split_once(" -X ").unwrap_or((command, "GET"));
        (method, path.trim_matches('\''))
    });
    commands.filter(|(_, path)| path.starts_with("/admin/")).collect()
}

#[tokio::test]
async fn commands_work() {
    assert!(commands().len() > 12, "they were found");
    for (method, path) in commands() {
        let registry = TaskRegistry::new();
        let dead = Task::retrying(RetryPolicy::default().attempts(1), || async { Err::<(), _>("down") });
        registry.spawn(dead.named("NAME")).await;
        let hanging = registry.spawn(Task::new(std::future::pending::<()>()).named("NAME"));
        let letter = registry.dead_letters().list()[0].id.to_external();
        let address = serve_status(StatusRouter::new(registry).allow_abort().allow_replay().allow_pause()).await;
        let task = hanging.id().to_external();
        let id = if path.contains("/dead-letters/") { letter } else { task };
        let answer = ask(address, method, &path.replace("/ID", &format!("/{id}"))).await;
        assert!(matches!(answer.status, 200 | 202 | 204), "{method} {path}: {answer:?}");
    }
}
