//! The page of the example `images`, as somebody who drops a picture on it sees it.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::driver::{Browser, Look};

struct Images {
    process: Child,
    link: String,
    /// Open as long as the process, which would fail to print otherwise.
    _lines: BufReader<ChildStdout>,
}

impl Images {
    fn start() -> Self {
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../debug/postlude-example-images");
        let mut command = Command::new(program);
        let mut process = command.env("PORT", "0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (mut line, mut lines) = (String::new(), BufReader::new(process.stdout.take().unwrap()));
        lines.read_line(&mut line).unwrap();
        let link = line.split_whitespace().nth(1).unwrap().to_owned();
        Self { process, link, _lines: lines }
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Drops a file on the page. `make` is an expression of a promise of its content.
fn drop_file(browser: &Browser, name: &str, make: &str) {
    browser.run(&format!(
        "return ({make}).then((content) => {{
            const files = new DataTransfer();
            files.items.add(new File([content], '{name}'));
            document.querySelector('#drop').dispatchEvent(
                new DragEvent('drop', {{ dataTransfer: files, bubbles: true, cancelable: true }}));
        }})"
    ));
}

/// A picture that is drawn in the browser.
const DRAWN: &str = "(() => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [600, 400];
    const context = canvas.getContext('2d');
    for (let x = 0; x < 600; x += 20) { context.fillStyle = `hsl(${x} 80% 50%)`; context.fillRect(x, x / 3, 20, 200); }
    return new Promise((made) => canvas.toBlob(made, 'image/png'));
})()";

#[test]
fn shows_results_and_says_what_is_wrong() {
    let (images, browser) = (Images::start(), Browser::start());
    browser.open(&images.link);
    drop_file(&browser, "drawn.png", DRAWN);
    let width = |of: u32| format!("[...document.images].some((image) => image.naturalWidth === {of})");
    browser.until(&width(128));
    browser.until_text("drawn.png: done");

    browser.run("document.querySelector('#process').value = 'edges'");
    drop_file(&browser, "edges.png", DRAWN);
    browser.until(&width(600));

    for (name, content, message) in [
        ("letter.txt", "Promise.resolve('hello, this is text')", "letter.txt: the file is neither a PNG nor a JPEG"),
        (
            "cut.png",
            "Promise.resolve(new Uint8Array([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]))",
            "cut.png: it is no picture",
        ),
        ("huge.png", "Promise.resolve(new Uint8Array(17 << 20).fill(0x89))", "huge.png: the picture is too large"),
    ] {
        drop_file(&browser, name, content);
        browser.until_text(message);
    }
    assert_eq!(browser.unnamed_controls(), [""; 0]);
    let pictures = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pictures/images");
    for (name, look) in [
        ("wide", Look { width: 1280, is_dark: false }),
        ("dark", Look { width: 1280, is_dark: true }),
        ("narrow", Look { width: 360, is_dark: false }),
    ] {
        browser.look(look);
        browser.screenshot(&pictures.join(format!("{name}.png")));
        let width = browser.run("return document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(width <= u64::from(look.width), "{width} wide on a screen of {}", look.width);
    }
    // Chromium reports each refusal, and there is nothing else to report.
    let problems = browser.problems();
    let is_refusal = |problem: &String| problem.contains("/pictures?") && problem.contains("Failed to load resource");
    assert!(problems.len() == 3 && problems.iter().all(is_refusal), "{problems:?}");
}
