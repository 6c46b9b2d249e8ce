//! The ending of a request, without the feature `http`.

/// Has no values, because there are no requests without the feature `http`.
#[derive(Clone, Copy)]
pub(crate) enum Ending {}

impl std::fmt::Display for Ending {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

#[cfg(feature = "testing")]
impl Ending {
    pub(crate) const fn taken(self) -> Self {
        match self {}
    }
}
