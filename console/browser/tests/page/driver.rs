//! A browser, driven through the `WebDriver` of Chromium.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a test waits for what it expects.
const PATIENCE: Duration = Duration::from_secs(40);

/// Collects violations of the policy and errors of scripts, from before the first script of the page.
const WATCH: &str = "globalThis.problems = [];
    addEventListener('securitypolicyviolation', (event) => problems.push(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
    addEventListener('error', (event) => problems.push(`error: ${event.message}`));
    addEventListener('unhandledrejection', (event) => problems.push(`rejection: ${event.reason}`));";

/// A browser with one page. Ends with its value.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _folder: TempDir,
}

/// How a page is shown.
#[derive(Clone, Copy)]
pub(crate) struct Look {
    pub(crate) width: u32,
    pub(crate) is_dark: bool,
}

impl Browser {
    pub(crate) fn start() -> Self {
        // It binds its port for two protocols, of which the second may be taken.
        let (driver, port) = (0..10).find_map(|_| start_driver()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let profile = format!("--user-data-dir={}", folder.path().display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &profile,
        ];
        let options = json!({
            "browserName": "chrome", "goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}
        });
        let mut browser = Self { driver, port, session: String::new(), _folder: folder };
        let session = browser.ask("POST", "/session", &json!({"capabilities": {"alwaysMatch": options}}));
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        browser.cdp("Page.addScriptToEvaluateOnNewDocument", &json!({"source": WATCH}));
        browser
    }

    pub(crate) fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({"url": url}));
    }

    pub(crate) fn look(&self, look: Look) {
        let size = json!({"width": look.width, "height": 800, "deviceScaleFactor": 1, "mobile": look.width < 600});
        self.cdp("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if look.is_dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.cdp("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// Runs the body of a function in the page.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The text that a reader sees.
    pub(crate) fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap().to_owned()
    }

    /// Waits until an expression is true in the page.
    pub(crate) fn until(&self, expression: &str) {
        let began = Instant::now();
        while !self.run(&format!("return Boolean({expression})")).as_bool().unwrap() {
            assert!(began.elapsed() < PATIENCE, "never: {expression}\n{}\n{:?}", self.text(), self.problems());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a reader sees this text.
    pub(crate) fn until_text(&self, text: &str) {
        self.until(&format!("document.body.innerText.includes({})", json!(text)));
    }

    /// Waits until a view is open, and its stream, too: what happens from here on is in it.
    pub(crate) fn until_live(&self, title: &str) {
        let (title, state) = (json!(title), "document.querySelector('#connection').innerText");
        self.until(&format!("document.querySelector('main h1')?.innerText === {title} && {state} === 'live'"));
    }

    pub(crate) fn until_no_text(&self, text: &str) {
        self.until(&format!("!document.body.innerText.includes({})", json!(text)));
    }

    /// Clicks on what is found, as a person does: it has to be visible, and nothing may cover it.
    pub(crate) fn click(&self, xpath: &str) {
        // What is live may be drawn again between the look and the click.
        while !self.try_click(xpath) {}
    }

    fn try_click(&self, xpath: &str) -> bool {
        let path = format!("{}/element/{}/click", self.session, self.find(xpath));
        let (status, text) = http(self.port, "POST", &path, "{}");
        assert!(status == 200 || text.contains("stale element"), "{xpath}: {text}");
        status == 200
    }

    /// Writes into a field in the place of what is in it, and leaves it.
    pub(crate) fn write(&self, xpath: &str, text: &str) {
        let element = self.find(xpath);
        self.command("POST", &format!("/element/{element}/clear"), &json!({}));
        self.command("POST", &format!("/element/{element}/value"), &json!({"text": format!("{text}\u{e004}")}));
    }

    /// Types into a field in the place of what is in it, and stays there.
    pub(crate) fn type_into(&self, xpath: &str, text: &str) {
        self.click(xpath);
        self.run("document.activeElement.select()");
        self.press(text);
    }

    /// Chooses an option, by its text.
    pub(crate) fn choose(&self, select: &str, option: &str) {
        self.find(select);
        // A browser shows options in a window of its own: they have no place in the page.
        let xpath = format!("{select}/option[.='{option}']");
        let element = self.command("POST", "/element", &json!({"using": "xpath", "value": xpath}));
        let element = element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        self.command("POST", &format!("/element/{element}/click"), &json!({}));
    }

    fn find(&self, xpath: &str) -> String {
        let by = format!("document.evaluate({}, document, null, 9).singleNodeValue", json!(xpath));
        self.until(&format!("{by} && {by}.getClientRects().length"));
        let element = self.command("POST", "/element", &json!({"using": "xpath", "value": xpath}));
        element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    /// Presses keys, one after another. The codes of special ones are those of `WebDriver`.
    pub(crate) fn press(&self, keys: &str) {
        let presses = keys.chars().flat_map(|key| {
            [json!({"type": "keyDown", "value": key.to_string()}), json!({"type": "keyUp", "value": key.to_string()})]
        });
        let source = json!({"type": "key", "id": "keyboard", "actions": presses.collect::<Vec<_>>()});
        self.command("POST", "/actions", &json!({"actions": [source]}));
    }

    /// What went wrong in the page so far: violations of its policy, errors, lines in the console of the browser.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = serde_json::from_value(self.run("return globalThis.problems ?? []")).unwrap();
        let lines = self.command("POST", "/se/log", &json!({"type": "browser"}));
        let lines = lines.as_array().unwrap().iter().filter(|line| line["level"] == "SEVERE");
        problems.extend(lines.map(|line| line["message"].as_str().unwrap().to_owned()));
        problems
    }

    /// The controls without a name for assistive technology.
    pub(crate) fn unnamed_controls(&self) -> Vec<String> {
        self.cdp("Accessibility.enable", &json!({}));
        let tree = self.cdp("Accessibility.getFullAXTree", &json!({}));
        let roles = [
            "button",
            "link",
            "textbox",
            "searchbox",
            "checkbox",
            "combobox",
            "image",
            "img",
            "progressbar",
            "meter",
            "table",
            "region",
            "navigation",
            "dialog",
            "figure",
            "group",
            "DisclosureTriangle",
            "spinbutton",
        ];
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let controls = nodes.filter(|node| roles.contains(&node["role"]["value"].as_str().unwrap_or_default()));
        let is_unnamed = |node: &&Value| {
            let is_group = ["figure", "group", "table"].contains(&node["role"]["value"].as_str().unwrap());
            node["ignored"] == false
                && !is_group
                && node["name"]["value"].as_str().unwrap_or_default().trim().is_empty()
        };
        controls.filter(is_unnamed).map(ToString::to_string).collect()
    }

    /// Writes a picture of the page, down to a bound.
    pub(crate) fn screenshot(&self, file: &Path) {
        let size = self.run("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]");
        let height = size[1].as_f64().unwrap().min(2400.0);
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": height, "scale": 1});
        let picture = self.cdp("Page.captureScreenshot", &json!({"captureBeyondViewport": true, "clip": clip}));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()).unwrap();
    }

    fn cdp(&self, command: &str, parameters: &Value) -> Value {
        self.command("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.ask(method, &format!("{}{path}", self.session), body)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, text) = http(self.port, method, path, &body.to_string());
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 200, "{method} {path} {body}: {answer}");
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            http(self.port, "DELETE", &self.session, "");
        }
        _ = self.driver.kill();
        _ = self.driver.wait();
    }
}

fn start_driver() -> Option<(Child, u16)> {
    let mut driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let port = lines.map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    if port.is_none() {
        driver.wait().unwrap();
    }
    Some((driver, port?))
}

/// Asks a server on loopback. Returns the status and the body.
pub(crate) fn http(port: u16, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n");
    let head = format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut length = None;
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = Some(value.trim().parse::<u64>().unwrap());
        }
    }
    let mut body = String::new();
    reader.take(length.unwrap_or(u64::MAX)).read_to_string(&mut body).unwrap();
    (status, body)
}
