//! The method and path of a request, for the log.

use std::fmt;

use http::Request;

use crate::util::escape::Escaped;

/// How many bytes are kept. A line that is kept whole would need an allocation for each request, or keep the buffer in
/// which the server has read it.
const KEPT: usize = 46;

/// The method and path of a request, without its query. The end of a long one is cut off.
#[derive(Clone, Copy)]
pub(crate) struct RequestLine {
    bytes: [u8; KEPT],
    length: u8,
    is_cut: bool,
}

impl RequestLine {
    /// That of a set which belongs to no request.
    pub(crate) const NONE: Self = Self { bytes: [0; KEPT], length: 0, is_cut: false };

    #[inline]
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let mut line = Self::NONE;
        line.push(request.method().as_str());
        line.push(" ");
        line.push(request.uri().path());
        line
    }

    /// As much of `text` as there is room for. What is cut within a character is left out when it is displayed.
    fn push(&mut self, text: &str) {
        let start = usize::from(self.length);
        let taken = text.len().min(KEPT - start);
        if let (Some(free), Some(text)) = (self.bytes.get_mut(start..start + taken), text.as_bytes().get(..taken)) {
            free.copy_from_slice(text);
        }
        self.length += u8::try_from(taken).unwrap_or_default();
        self.is_cut |= taken < text.len();
    }

    pub(crate) const fn is_none(&self) -> bool {
        self.length == 0
    }
}

impl fmt::Display for RequestLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        let whole = kept.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        write!(f, "{}{}", Escaped(whole), if self.is_cut { "…" } else { "" })
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;

    fn line(method: &str, uri: &str) -> String {
        RequestLine::of(&Request::builder().method(method).uri(uri).body(()).unwrap()).to_string()
    }

    #[test]
    fn it_has_no_query_and_its_end_is_cut_off() {
        assert_eq!(line("POST", "/signup?token=secret"), "POST /signup");
        assert_eq!(line("CONNECT", "example.org:443"), "CONNECT ");
        let long = line("GET", &format!("/{}", "a".repeat(100)));
        assert_eq!((long.len(), long.ends_with("aaa…")), (KEPT + "…".len(), true));
        let just = format!("/{}", "a".repeat(KEPT - 5));
        assert_eq!(line("GET", &just), format!("GET {just}"));
        assert!(RequestLine::NONE.is_none());
    }

    #[test]
    fn a_character_that_was_cut_is_left_out() {
        let uri = http::Uri::from_maybe_shared(format!("/{}ü", "a".repeat(KEPT - 6))).unwrap();
        let line = RequestLine::of(&Request::get(uri).body(()).unwrap()).to_string();
        assert!(line.ends_with("aaa…"), "{line}");
    }
}
