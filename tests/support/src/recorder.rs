//! Players that write what they get into a file.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

use super::{
    media::Recording,
    process::Process,
    wait::{LIMIT, wait_for},
};

/// A running player and its file.
pub struct Recorder {
    /// The player itself.
    pub process: Process,
    file: PathBuf,
    _dir: TempDir,
}

impl Recorder {
    /// Starts a player; `command` gets the file that it is to write.
    pub fn start(name: &str, command: impl FnOnce(&str) -> Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("played.flv");
        let command = command(file.to_str().unwrap());
        Self { process: Process::spawn(name, &command), file, _dir: dir }
    }

    /// Waits until so many video packets have arrived, ends the player and gives all of them.
    pub fn finish_with_video(mut self, packets: usize) -> Recording {
        let (mut looked_at, mut arrived) = (0, 0);
        wait_for(&format!("{packets} video packets"), LIMIT, || {
            let size = fs::metadata(&self.file).map_or(0, |m| m.len());
            // Looking starts a process, so only after something has come that is worth it.
            if size >= looked_at + 16_384 {
                looked_at = size;
                arrived = Recording::of_file(&self.file).video.len();
            }
            let done = arrived > packets;
            if !done {
                self.process.assert_running();
            }
            done
        });
        self.process.kill();
        // Read anew: of a file that grew meanwhile, what was amid a packet then came out cut off.
        let mut recording = Recording::of_file(&self.file);
        // The file may end amid a packet.
        recording.video.pop();
        recording.audio.pop();
        recording
    }
}
