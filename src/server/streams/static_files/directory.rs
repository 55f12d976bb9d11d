//! A directory that nothing leads out of.

use std::{
    future::{Ready, ready},
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use cap_std::{
    ambient_authority,
    fs::{Dir, OpenOptions, OpenOptionsExt},
};
use rustix::fs::OFlags;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs;

/// What waits for the file system, away from the thread that moves bytes.
type Blocking<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// Opens regular files below a directory. It is opened anew for each of them, so that a release may
/// replace it.
#[derive(Debug, Clone)]
pub(super) struct Directory(Arc<Path>);

/// An open file.
#[derive(Debug)]
pub(super) struct File {
    file: tokio::fs::File,
    metadata: Metadata,
}

/// What is told of a file or directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata {
    is_dir: bool,
    /// In bytes.
    len: u64,
    modified: Option<SystemTime>,
}

impl Directory {
    pub fn new(path: PathBuf) -> Self {
        Self(path.into())
    }

    fn blocking<T: Send + 'static>(
        &self,
        path: PathBuf,
        run: impl FnOnce(&Dir, &Path) -> io::Result<T> + Send + 'static,
    ) -> Blocking<T> {
        let root = Arc::clone(&self.0);
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || {
                Dir::open_ambient_dir(root, ambient_authority()).and_then(|root| run(&root, &path))
            });
            done.await.map_err(io::Error::other)?.map_err(as_not_found)
        })
    }
}

impl fs::Backend for Directory {
    type File = File;
    type Metadata = Metadata;
    type OpenFuture = Blocking<File>;
    type MetadataFuture = Blocking<Metadata>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        self.blocking(path, |root, path| {
            if !root.metadata(path)?.is_file() {
                return Err(io::ErrorKind::NotFound.into());
            }
            // A pipe that took the file's place a moment ago must not make us wait for its writer.
            let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
            let file = root.open_with(path, OpenOptions::new().read(true).custom_flags(flags))?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(File { file: tokio::fs::File::from_std(file.into_std()), metadata: (&metadata).into() })
        })
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        self.blocking(path, |root, path| {
            let metadata = root.metadata(path)?;
            if metadata.is_file() || metadata.is_dir() {
                Ok((&metadata).into())
            } else {
                Err(io::ErrorKind::NotFound.into())
            }
        })
    }
}

/// What a path cannot lead to is not there, whatever the reason: too long a name, a file where a
/// directory should be, a link out of the directory, no permission. Only what would be different a
/// moment later, or on a better disk, remains.
fn as_not_found(error: io::Error) -> io::Error {
    use rustix::io::Errno;
    let transient = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::INTR, Errno::STALE, Errno::TIMEDOUT];
    if Errno::from_io_error(&error).is_some_and(|errno| transient.contains(&errno)) {
        error
    } else {
        io::Error::new(io::ErrorKind::NotFound, error)
    }
}

impl fs::File for File {
    type Metadata = Metadata;
    type MetadataFuture<'a> = Ready<io::Result<Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        ready(Ok(self.metadata))
    }
}

impl AsyncRead for File {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(cx, buf)
    }
}

impl AsyncSeek for File {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(cx)
    }
}

impl From<&cap_std::fs::Metadata> for Metadata {
    fn from(metadata: &cap_std::fs::Metadata) -> Self {
        let modified = metadata.modified().ok().map(cap_std::time::SystemTime::into_std);
        Self { is_dir: metadata.is_dir(), len: metadata.len(), modified }
    }
}

impl fs::Metadata for Metadata {
    fn is_dir(&self) -> bool {
        self.is_dir
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.modified.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> u64 {
        self.len
    }
}
