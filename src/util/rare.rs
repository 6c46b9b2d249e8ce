//! A value that few have.

use std::ops::{Deref, DerefMut};

/// A value that few have: one word, of which the drop is a branch and no call if there is no value.
pub(crate) struct Rare<T>(Option<Box<T>>);

impl<T> Rare<T> {
    pub(crate) const NONE: Self = Self(None);
}

impl<T> Default for Rare<T> {
    #[inline]
    fn default() -> Self {
        Self::NONE
    }
}

impl<T> From<Option<Box<T>>> for Rare<T> {
    fn from(value: Option<Box<T>>) -> Self {
        Self(value)
    }
}

impl<T: Clone> Clone for Rare<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Rare<T> {
    type Target = Option<Box<T>>;

    #[inline]
    fn deref(&self) -> &Option<Box<T>> {
        &self.0
    }
}

impl<T> DerefMut for Rare<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Option<Box<T>> {
        &mut self.0
    }
}

impl<T> Drop for Rare<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            drop_value(value);
        }
    }
}

/// Out of line, so that the branch before it stays in line.
#[cold]
#[inline(never)]
fn drop_value<T>(value: Box<T>) {
    drop(value);
}
