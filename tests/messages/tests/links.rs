//! The links of the documents lead somewhere: to a file, and to a heading of it.
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn documents(root: &Path) -> Vec<PathBuf> {
    let mut documents = Vec::new();
    for folder in [".", "docs", "jobs", "jobs/docs", "console"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    documents
}

/// The lines outside blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The anchors of the headings, as GitHub and rustdoc make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |heading: &str| -> String {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    headings.map(kept).collect()
}

#[test]
fn of_documents_lead_to_files_and_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (mut checked, mut broken) = (0, Vec::new());
    for document in documents(&root) {
        let text = fs::read_to_string(&document).unwrap();
        for link in prose(&text).flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            // Links to items are rustdoc's to check.
            if link.contains("::") || path.contains("://") || (anchor.is_empty() && !path.contains('.')) {
                continue;
            }
            if matches!(path, "crate" | "postlude") {
                continue;
            }
            let target = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            checked += 1;
            let Ok(content) = fs::read_to_string(&target) else {
                broken.push(format!("{}: {link}: no such file", document.display()));
                continue;
            };
            if !anchor.is_empty() && !anchors(&content).iter().any(|has| has == anchor) {
                broken.push(format!("{}: {link}: no such heading", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(checked > 80, "they were found: {checked}");
}
