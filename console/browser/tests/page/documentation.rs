//! The pages that rustdoc makes of each crate and of each chapter: pictures for people to look at, and what can be
//! asserted of them.

use std::{env, fs, path::PathBuf};

use crate::driver::{Browser, Look};

#[test]
fn is_not_cut_off() {
    let built = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../doc");
    let pictures = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pictures/documentation");
    let browser = Browser::start();
    let mut count = 0;
    for name in ["postlude", "postlude_console", "postlude_jobs"] {
        let mut pages = vec![(name.to_owned(), built.join(name).join("index.html"))];
        for chapter in fs::read_dir(built.join(name).join("guide")).unwrap() {
            let chapter = chapter.unwrap();
            let page = chapter.path().join("index.html");
            if page.exists() {
                pages.push((format!("{name}-{}", chapter.file_name().display()), page));
            }
        }
        for width in [1280, 360] {
            browser.look(Look { width, is_dark: false });
            for (title, page) in &pages {
                browser.open(&format!("file://{}", page.canonicalize().unwrap().display()));
                browser.screenshot(&pictures.join(format!("{title}-{width}.png")));
                // What is wider than the screen can be scrolled inside its own box: code and tables.
                let cut = browser.run(
                    "return [...document.querySelectorAll('main p, main li, main h1, main h2, main h3')]
                        .filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('table, pre'))
                        .map((one) => one.innerText)",
                );
                assert_eq!(cut.as_array().unwrap().len(), 0, "{title} at {width}: {cut}");
                count += 1;
            }
        }
    }
    assert!(count > 30, "there are chapters: {count}");
}
