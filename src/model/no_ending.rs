//! The ending of a request, without the feature `http`.

/// Has no values, because there are no requests without the feature `http`.
#[derive(Clone, Copy)]
pub(crate) enum Ending {}

#[cfg(feature = "testing")]
impl Ending {
    pub(crate) const fn taken(self) -> Self {
        match self {}
    }
}
