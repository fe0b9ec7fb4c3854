//! `backtrail fpm`: captures of what zebra sends, to read, to replay and to take.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use zebra_fpm::{Decoder, Record, Update};

use super::output::Format;
use super::{Global, Outcome};

/// FPM's port.
const PORT: u16 = 2620;
/// Bytes of one read or write.
const CHUNK: usize = 64 * 1024;
/// How long `send` waits for the other end to have read all.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of `backtrail fpm`.
#[derive(Debug, Clone, Args)]
pub struct FpmArgs {
    #[command(subcommand)]
    command: FpmCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum FpmCommand {
    /// Print the messages of a capture, one a line
    Decode(DecodeArgs),
    /// Send a capture to an agent, as zebra would
    Send(SendArgs),
    /// Take a capture of one session of zebra's
    Record(RecordArgs),
}

#[derive(Debug, Clone, Args)]
struct DecodeArgs {
    /// Bytes as zebra wrote them to the socket; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Clone, Args)]
struct SendArgs {
    /// Bytes as zebra wrote them to the socket
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the agent listens
    #[arg(long, value_name = "ADDR[:PORT]")]
    to: String,
    /// At once, or as FILE.times tells
    #[arg(long, value_enum, default_value_t)]
    pace: Pace,
    /// Keep the session open for so many seconds after the last byte
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    hold: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Pace {
    /// As fast as the agent reads
    #[default]
    Full,
    /// With the pauses of the recording
    Original,
}

#[derive(Debug, Clone, Args)]
struct RecordArgs {
    /// Where to write the bytes; FILE.times gets the times
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where zebra connects to
    #[arg(long, value_name = "ADDR[:PORT]", default_value = "127.0.0.1:2620")]
    listen: String,
    /// Pass everything on to the agent that listens here, and its answers back
    #[arg(long, value_name = "ADDR[:PORT]")]
    to: Option<String>,
}

/// A line of FILE.times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Arrival {
    /// Position of the first byte that arrived.
    offset: u64,
    /// When, in microseconds since zebra connected.
    us: u64,
}

/// Runs `backtrail fpm`.
///
/// # Errors
/// If a capture is malformed (with the offset of the bad frame's first byte), a file or a socket fails.
pub(super) fn run(global: &Global, args: &FpmArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    match &args.command {
        FpmCommand::Decode(args) => decode(global.output, args, out)?,
        FpmCommand::Send(args) => send(args)?,
        FpmCommand::Record(args) => record(args)?,
    }
    Ok(Outcome::Ok)
}

fn decode(format: Format, args: &DecodeArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let name = args.file.display().to_string();
    let mut input: Box<dyn Read> = match &*args.file {
        path if path == Path::new("-") => Box::new(io::stdin().lock()),
        path => Box::new(File::open(path).with_context(|| name.clone())?),
    };
    let mut decoder = Decoder::new();
    let mut updates = Vec::new();
    let mut unknown = 0;
    loop {
        let read = input.by_ref().take(CHUNK as u64).read_to_end(decoder.frames().read_buffer());
        if read.with_context(|| name.clone())? == 0 {
            break;
        }
        while let Some(frame) = decoder.next_frame(&mut updates).with_context(|| name.clone())? {
            unknown += u64::from(frame.unknown_attributes);
            for update in updates.drain(..) {
                print(format, frame.offset, &Record { encoding: frame.encoding, update: &update }, out)?;
            }
        }
    }
    if unknown > 0 {
        eprintln!("{name}: {unknown} attributes of types unknown to this version were skipped");
    }
    decoder.finish().with_context(|| name)
}

fn print(format: Format, offset: u64, record: &Record<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    match format {
        Format::Json => writeln!(out, "{}", serde_json::to_string(record)?)?,
        Format::Yaml => out.write_all(serde_saphyr::to_string(&[record])?.as_bytes())?,
        Format::Table => writeln!(out, "@{offset:<8} {}", Human(record.update))?,
    }
    Ok(())
}

/// An update as iproute2 prints it; raw messages are cut, for they can be of any length.
struct Human<'a>(&'a Update);

impl std::fmt::Display for Human<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Update::Raw(raw) => write!(f, "{:.200} ({} bytes)", raw.to_string(), raw.body.len()),
            update => write!(f, "{update}"),
        }
    }
}

/// An address with or without a port.
fn resolve(text: &str) -> anyhow::Result<SocketAddr> {
    let address = match text.parse() {
        Ok(ip) => Some(SocketAddr::new(ip, PORT)),
        Err(_) if text.contains(':') => text.to_socket_addrs().with_context(|| text.to_owned())?.next(),
        Err(_) => (text, PORT).to_socket_addrs().with_context(|| text.to_owned())?.next(),
    };
    address.with_context(|| format!("{text}: no such host"))
}

fn connect(text: &str) -> anyhow::Result<TcpStream> {
    let address = resolve(text)?;
    TcpStream::connect(address).with_context(|| format!("cannot connect to {address}: does the agent run?"))
}

fn times_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".times");
    name.into()
}

fn send(args: &SendArgs) -> anyhow::Result<()> {
    let name = args.file.display().to_string();
    let mut file = File::open(&args.file).with_context(|| name.clone())?;
    let times = match args.pace {
        Pace::Full => Vec::new(),
        Pace::Original => read_times(&times_of(&args.file))?,
    };
    let mut stream = connect(&args.to)?;
    let sent =
        send_all(&mut file, &times, &mut stream).with_context(|| format!("sending {name} to {}", args.to))?;
    thread::sleep(Duration::from_secs(args.hold));
    stream.shutdown(Shutdown::Write).context("closing the session")?;
    // What the agent answers must be read: with unread bytes, closing would cut off what it has not read itself.
    stream.set_read_timeout(Some(CLOSE_TIMEOUT))?;
    match io::copy(&mut stream, &mut io::sink()) {
        Ok(_) => eprintln!("{sent} bytes sent"),
        Err(error) => eprintln!("{sent} bytes sent; the agent did not close the session: {error}"),
    }
    Ok(())
}

fn read_times(path: &Path) -> anyhow::Result<Vec<Arrival>> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("{name}: needed for --pace original"))?;
    let mut times: Vec<Arrival> = Vec::new();
    for (at, line) in BufReader::new(file).lines().enumerate() {
        let arrival: Arrival =
            serde_json::from_str(&line?).with_context(|| format!("{name}, line {}", at + 1))?;
        if times.last().is_some_and(|last| last.offset > arrival.offset || last.us > arrival.us) {
            bail!("{name}, line {}: offsets and times must not decrease", at + 1);
        }
        times.push(arrival);
    }
    Ok(times)
}

/// Sends a file; no byte before its time. What comes before the first of `times` goes at once.
fn send_all(file: &mut File, times: &[Arrival], stream: &mut TcpStream) -> io::Result<u64> {
    let start = Instant::now();
    let mut sent = 0;
    for arrival in times {
        sent += io::copy(&mut file.take(arrival.offset.saturating_sub(sent)), stream)?;
        let due = start.checked_add(Duration::from_micros(arrival.us)).unwrap_or(start);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    sent += io::copy(file, stream)?;
    Ok(sent)
}

fn record(args: &RecordArgs) -> anyhow::Result<()> {
    let name = args.file.display().to_string();
    let address = resolve(&args.listen)?;
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    let file = File::create(&args.file).with_context(|| name.clone())?;
    let times_path = times_of(&args.file);
    let times = File::create(&times_path).with_context(|| times_path.display().to_string())?;
    eprintln!("waiting for zebra on {}", listener.local_addr()?);
    let (zebra, peer) = listener.accept()?;
    drop(listener);
    eprintln!("recording the session of {peer} to {name} until it ends");
    let agent = args.to.as_deref().map(connect).transpose()?;
    let bytes = match agent {
        None => tee(&zebra, io::sink(), file, times),
        Some(agent) => relay(&zebra, &agent, file, times),
    };
    eprintln!("{} bytes recorded", bytes.with_context(|| format!("recording to {name}"))?);
    Ok(())
}

/// Passes bytes on in both directions, and records those of zebra's. When one side ends, so does the other.
fn relay(zebra: &TcpStream, agent: &TcpStream, file: File, times: File) -> io::Result<u64> {
    thread::scope(|scope| {
        scope.spawn(|| {
            // An error here ends the session too, which the other direction then tells.
            let _ = io::copy(&mut &*agent, &mut &*zebra);
            let _ = zebra.shutdown(Shutdown::Both);
        });
        let bytes = tee(zebra, agent, file, times);
        // Fails only if the agent has gone already.
        let _ = agent.shutdown(Shutdown::Write);
        bytes
    })
}

/// Copies until `from` ends, and writes down when what arrived. Unbuffered, so that an interrupt loses nothing.
fn tee(mut from: &TcpStream, mut to: impl Write, mut file: File, mut times: File) -> io::Result<u64> {
    let start = Instant::now();
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let bytes = match from.read(&mut buffer) {
            Ok(len) => buffer.get(..len).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(offset),
            Err(error) => return Err(error),
        };
        if bytes.is_empty() {
            return Ok(offset);
        }
        let us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut line = serde_json::to_vec(&Arrival { offset, us })?;
        line.push(b'\n');
        times.write_all(&line)?;
        file.write_all(bytes)?;
        to.write_all(bytes)?;
        offset += bytes.len() as u64;
    }
}

#[cfg(test)]
mod tests;
