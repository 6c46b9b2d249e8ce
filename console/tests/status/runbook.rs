//! The runbook knows each alert, and its links lead somewhere.

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
