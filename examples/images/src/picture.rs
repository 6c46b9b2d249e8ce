//! What is made of a picture.

use std::{fs::File, io::BufReader, path::Path};

use image::{DynamicImage, ImageError, ImageFormat, ImageReader, Limits, imageops::FilterType};
use postlude::{BoxError, Progress, cancellation};
use serde::{Deserialize, Serialize};

/// The longest side of a thumbnail, in pixels.
const THUMBNAIL: u32 = 128;
/// A small file may be a huge picture: 40 megapixels take 160 MB when they are decoded.
pub(crate) const MAX_PIXELS: u64 = 40_000_000;

/// What to do with a picture. Each is the name of the tasks that do it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Process {
    #[default]
    Thumbnail,
    Grayscale,
    Blur,
    Edges,
}

impl Process {
    pub(crate) const ALL: [Self; 4] = [Self::Thumbnail, Self::Grayscale, Self::Blur, Self::Edges];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Thumbnail => "thumbnail",
            Self::Grayscale => "grayscale",
            Self::Blur => "blur",
            Self::Edges => "edges",
        }
    }

    fn apply(self, picture: &DynamicImage) -> DynamicImage {
        match self {
            Self::Thumbnail => picture.resize(THUMBNAIL, THUMBNAIL, FilterType::Lanczos3),
            Self::Grayscale => picture.grayscale(),
            Self::Blur => picture.fast_blur(8.0),
            Self::Edges => picture.filter3x3(&[-1.0, -1.0, -1.0, -1.0, 8.0, -1.0, -1.0, -1.0, -1.0]),
        }
    }
}

/// The width and height of a picture, by its head alone.
///
/// # Errors
/// If the file is no PNG or JPEG, or too large to be decoded.
pub(crate) fn check(path: &Path) -> Result<(u32, u32), BoxError> {
    let (width, height) = reader(path)?.into_dimensions()?;
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("{width} × {height} pixels are too many: at most {MAX_PIXELS}").into());
    }
    Ok((width, height))
}

fn reader(path: &Path) -> Result<ImageReader<BufReader<File>>, ImageError> {
    let mut reader = ImageReader::open(path)?.with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(16 * MAX_PIXELS);
    reader.limits(limits);
    Ok(reader)
}

/// Reads a picture, processes it, and writes it as PNG. If it is asked to stop, it ends between two of these steps.
pub(crate) fn make(process: Process, from: &Path, to: &Path, progress: &Progress) -> Result<(), BoxError> {
    let token = cancellation();
    let step = |done, message| {
        progress.set(done, 3).message(message);
        if token.is_cancelled() { Err("it was told to stop") } else { Ok(()) }
    };
    step(0, "reading")?;
    let picture = reader(from)?.decode()?;
    step(1, process.name())?;
    let made = process.apply(&picture);
    drop(picture);
    step(2, "writing")?;
    // Renamed when complete, so that no request reads half a file.
    let unfinished = to.with_extension("unfinished");
    made.save_with_format(&unfinished, ImageFormat::Png)?;
    File::open(&unfinished)?.sync_all()?;
    std::fs::rename(unfinished, to)?;
    progress.set(3, 3).message("done");
    Ok(())
}

/// Whether another attempt would fail in the same way.
pub(crate) fn is_final(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<ImageError>() {
        Some(ImageError::Decoding(_) | ImageError::Unsupported(_) | ImageError::Limits(_)) => true,
        // A file that ends too early.
        Some(ImageError::IoError(error)) => error.kind() == std::io::ErrorKind::UnexpectedEof,
        _ => false,
    }
}
