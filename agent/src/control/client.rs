//! The commands' side of the control socket. Blocking: a command does one thing at a time.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::endpoint::io;
use super::{ControlError, MAX_RESPONSE, Request, Response, SOCKET};

/// How long an answer may take: a plan over 1,000,000 routes dumps the kernel first.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a running agent.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the agent of `run_dir`.
    ///
    /// # Errors
    /// [`ControlError::NotRunning`] when nobody listens there.
    pub fn connect(run_dir: &Path) -> Result<Self, ControlError> {
        let path = run_dir.join(SOCKET);
        let stream = UnixStream::connect(&path)
            .map_err(|source| ControlError::NotRunning { path: path.clone(), source })?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(io("set a timeout on", &path))?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(io("set a timeout on", &path))?;
        Ok(Self { path, stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with the agent's own words; [`ControlError::Io`] when the connection breaks;
    /// [`ControlError::Protocol`] when the answer is not one.
    pub fn call(&mut self, request: &Request) -> Result<Response, ControlError> {
        let mut line =
            serde_json::to_vec(request).map_err(|error| ControlError::Protocol(error.to_string()))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(io("write to", &self.path))?;
        line.clear();
        self.stream
            .by_ref()
            .take(MAX_RESPONSE)
            .read_until(b'\n', &mut line)
            .map_err(io("read from", &self.path))?;
        if line.is_empty() {
            return Err(ControlError::Protocol("the connection was closed".to_owned()));
        }
        match serde_json::from_slice(&line) {
            Ok(Response::Error(text)) => Err(ControlError::Refused(text)),
            Ok(response) => Ok(response),
            Err(error) => Err(ControlError::Protocol(error.to_string())),
        }
    }
}
