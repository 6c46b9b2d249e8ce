//! The names of tasks.

pub(crate) const UNNAMED: &str = "unnamed";

pub(crate) const fn name_or_unnamed(name: &'static str) -> &'static str {
    if name.is_empty() { UNNAMED } else { name }
}
