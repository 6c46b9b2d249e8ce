//! Chunks of a body that tell when the server has released them.

use bytes::Bytes;

use crate::engine::hold::Hold;

/// The same bytes, in a form that releases `hold` when the server drops them. Copies nothing.
pub(crate) fn releasing(chunk: Bytes, hold: Hold) -> Bytes {
    Bytes::from_owner(Chunk { bytes: chunk, hold })
}

/// The owner of a chunk's bytes.
struct Chunk {
    bytes: Bytes,
    hold: Hold,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.hold.release();
    }
}
