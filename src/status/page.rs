use std::str::FromStr;

use serde::{Serialize, Serializer, ser::SerializeMap};

/// How many items a page has, if nobody says otherwise.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Which page of a list a client wants: how many items, and after which one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Window<C> {
    pub(crate) limit: usize,
    pub(crate) cursor: Option<C>,
}

impl<C> Default for Window<C> {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, cursor: None }
    }
}

impl<C: FromStr> Window<C> {
    /// Takes a parameter, or says what is wrong with it; `false` if it is about something else.
    pub(crate) fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "limit" => match value.parse() {
                Ok(limit @ 1..=MAX_LIMIT) => self.limit = limit,
                _ => return Err(format!("`limit={value}`: it is a number from 1 to {MAX_LIMIT}")),
            },
            "cursor" => match value.parse() {
                Ok(cursor) => self.cursor = Some(cursor),
                Err(_) => return Err(format!("`cursor={value}`: it is the `next` of the page before")),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What is answered: some items, under the name of what they are, and where the next ones begin.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) of: &'static str,
    pub(crate) items: Vec<T>,
    pub(crate) next: Option<String>,
}

impl<T: Serialize> Serialize for Page<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(self.of, &self.items)?;
        map.serialize_entry("next", &self.next)?;
        map.end()
    }
}
