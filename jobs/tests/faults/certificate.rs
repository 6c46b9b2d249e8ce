//! A certificate of a test's own, for connections that are encrypted.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Whether one can be made here.
pub(crate) fn can_create() -> bool {
    Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A certificate for `localhost` that vouches for itself, and its key.
pub(crate) fn create(folder: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join("certificate"), folder.join("key"));
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (certificate, key)
}
