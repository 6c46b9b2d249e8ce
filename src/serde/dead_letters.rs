use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    model::{Attempt, DeadLetter},
    serde::{Place, details},
};

impl Serialize for DeadLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries!(map:
            "id" = self.id,
            "name" = self.name,
            "location" = Place(self.location),
            "set" = self.set,
            "replay_of" = self.replay_of,
            "is_replayable" = self.is_replayable,
            "attempts" = self.attempts,
        );
        map.end()
    }
}

impl Serialize for Attempt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries!(map:
            "number" = self.number,
            "state" = self.outcome.label(),
            "ended_at" = since_1970(self.ended_at),
            "ran_for" = self.ran_for.as_secs_f64(),
        );
        details(&mut map, &self.outcome)?;
        map.end()
    }
}

/// Seconds; below zero for what came before.
fn since_1970(moment: SystemTime) -> f64 {
    match moment.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}
