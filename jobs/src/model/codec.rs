//! How payloads are written.

use postlude::BoxError;

/// Turns the JSON of a payload into the bytes that are stored, and back: for encryption, or for compression.
///
/// The guide shows one with an authenticated cipher. All producers and workers of a queue need the same codec. A
/// payload that can't be decoded is retried, because a newer worker may know its key, and is dead when its attempts are
/// used up.
pub trait Codec: Send + Sync + 'static {
    /// Encodes the JSON of a job of this name. The size limit holds for the result.
    ///
    /// # Errors
    /// The push fails with the error.
    fn encode(&self, name: &str, json: Vec<u8>) -> Result<Vec<u8>, BoxError>;

    /// Decodes what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// The attempt fails with the error.
    fn decode(&self, name: &str, stored: Vec<u8>) -> Result<Vec<u8>, BoxError>;
}
