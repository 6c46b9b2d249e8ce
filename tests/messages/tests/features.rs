//! The documentation of an item that needs a feature begins with the feature.
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::{fs, path::Path};

/// The items that are looked for first when a feature is off: methods of types that are always there, and types.
const ITEMS: [(&str, &str, &str); 17] = [
    ("axum", "src/http/extract.rs", "pub struct MissingTaskLayer"),
    ("cron", "src/model/policy/schedule.rs", "pub struct Schedule"),
    ("cron", "src/model/policy/schedule.rs", "pub enum ScheduleError"),
    ("cron", "src/registry/cron.rs", "pub fn spawn_cron"),
    ("http", "src/http/body.rs", "pub struct TaskBody"),
    ("http", "src/http/body.rs", "pub fn attach"),
    ("http", "src/http/future.rs", "pub struct ResponseFuture"),
    ("http", "src/http/layer.rs", "pub struct TaskLayer"),
    ("http", "src/http/service.rs", "pub struct TaskService"),
    ("http", "src/model/ending.rs", "pub enum Ending"),
    ("http", "src/task/mod.rs", "pub fn when"),
    ("rate-limit", "src/model/policy/rate_limit.rs", "pub struct RateLimit"),
    ("rate-limit", "src/registry/builder.rs", "pub fn rate_limit"),
    ("serde", "src/registry/config.rs", "pub struct RegistryConfig"),
    ("serde", "src/registry/config.rs", "pub fn config"),
    ("signal", "src/model/policy/serve.rs", "pub struct ServePolicy"),
    ("signal", "src/registry/serve.rs", "pub async fn serve"),
];

/// The documentation and the attributes above a line.
fn above<'a>(lines: &[&'a str], item: usize) -> Vec<&'a str> {
    let is_part = |line: &&&str| {
        let line = line.trim();
        line.starts_with("//") || (!line.is_empty() && !line.ends_with('{'))
    };
    lines.iter().take(item).rev().take_while(is_part).copied().collect()
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file)).unwrap()
}

#[test]
fn are_first_line_of_their_items() {
    for (feature, file, item) in ITEMS {
        let text = read(file);
        let lines: Vec<_> = text.lines().collect();
        let found = lines.iter().position(|line| {
            let rest = line.trim_start().strip_prefix(item);
            rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
        });
        let above = above(&lines, found.unwrap_or_else(|| panic!("{file} has no {item}")));
        let first = above.iter().rev().find_map(|line| line.trim_start().strip_prefix("/// "));
        assert_eq!(first, Some(format!("Feature `{feature}`.").as_str()), "{item}");
    }
}

// A method that comes with a feature and is not in the list above.
#[test]
fn are_first_line_of_methods_behind_cfg() {
    for file in ["src/task/mod.rs", "src/registry/builder.rs", "src/registry/set.rs", "src/registry/task_registry.rs"] {
        let text = read(file);
        let lines: Vec<_> = text.lines().collect();
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.trim_start().starts_with("pub fn ")) {
            let above = above(&lines, index);
            let Some(cfg) = above.iter().find_map(|line| line.trim().strip_prefix("#[cfg(feature = \"")) else {
                continue;
            };
            let feature = cfg.split('"').next().unwrap();
            let first = above.iter().rev().find_map(|line| line.trim_start().strip_prefix("/// "));
            assert_eq!(first, Some(format!("Feature `{feature}`.").as_str()), "{file}: {line}");
        }
    }
}
