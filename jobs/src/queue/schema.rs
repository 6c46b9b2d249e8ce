//! Two versions of this crate on one database: which may use the tables.

use super::rows::Columns;
use crate::model::error::QueueError;

/// What the tables say of themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schema {
    /// Their version; 0 if there are none.
    pub(super) version: i64,
    /// The oldest version that a program may have been built for. A migration that older programs can work with leaves
    /// it as it is.
    pub(super) usable_from: i64,
}

impl Schema {
    /// No tables.
    pub(super) const NONE: Self = Self { version: 0, usable_from: 0 };

    /// From a row that has the settings as columns.
    pub(super) fn read(row: &impl Columns) -> Result<Self, sqlx::Error> {
        Ok(Self { version: row.long("schema")?, usable_from: row.long("usable_from")? })
    }

    /// Whether a program that was built for a version may use the tables.
    ///
    /// # Errors
    /// If a newer program has changed them too much.
    pub(super) const fn check(self, engine: &'static str, needed: i64) -> Result<(), QueueError> {
        if self.usable_from <= needed {
            return Ok(());
        }
        let advice = "a newer version of postlude-jobs has changed them: update this program";
        Err(QueueError::Schema { engine, found: self.version, needed, advice })
    }
}
