//! The guest's side: this program is its first process. It mounts, loads modules, runs the tests, and says the result.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{GUEST_FRR, output};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcdrain;
use nix::unistd::Pid;

/// Folder of the modules, in the order of their names.
pub(super) const MODULES: &str = "/modules";
/// The tests, one in a line: name, folder, program and arguments, with tabs between.
pub(super) const TESTS: &str = "/tests";
/// What the host looks for at the start of a line: `begin NAME`, `end NAME PASSED`, `result FAILED`.
pub(super) const MARK: &str = "vm-guest:";

/// How many times longer than elsewhere tests wait in an emulated machine.
const PATIENCE: &str = "5";

/// Seconds for one test program: the others must get their turn. Emulated code runs up to ten times slower.
pub(super) const LIMIT: usize = 1500;

/// Type and place of what is mounted. Not `/tmp`: the tests may come from a checkout below it.
const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// Runs everything and ends the machine.
///
/// # Errors
/// When this is no guest, or its set-up fails: then there is no result, which the host counts as a failure.
pub(crate) fn run() -> Result<bool> {
    ensure!(std::process::id() == 1, "this is the first process of a test's virtual machine: cargo xtask vm");
    prepare()?;
    let mut failed = 0;
    let list = fs::read_to_string(TESTS).with_context(|| format!("cannot read {TESTS}"))?;
    for line in list.lines() {
        let mut fields = line.split('\t');
        let mut next = || fields.next().context("a line of the list is too short");
        let (name, folder, program, arguments) = (next()?, next()?, next()?, next()?);
        println!("{MARK} begin {name}");
        let mut command = Command::new("/bin/timeout");
        command.args(["--signal=KILL", &LIMIT.to_string(), program]).args(arguments.split(' '));
        command.current_dir(folder).env("BACKTRAIL_PATIENCE", PATIENCE);
        let status = command.status().with_context(|| format!("cannot start {program}"));
        if let Err(error) = &status {
            println!("{error:#}");
        }
        let passed = status.is_ok_and(|status| status.success());
        failed += u8::from(!passed);
        println!("{MARK} end {name} {passed}");
        // Whatever a test left running; there may be nothing.
        kill(Pid::from_raw(-1), Signal::SIGKILL).ok();
    }
    println!("{MARK} result {failed}");
    // The machine ends at once: what the console has not sent by then is lost.
    tcdrain(std::io::stdout()).context("cannot empty the console")?;
    machine::exit(failed)?;
    Ok(failed == 0)
}

fn prepare() -> Result<()> {
    for (kind, place) in MOUNTS {
        mount(Some(*kind), *place, Some(*kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount {place}"))?;
    }
    fs::create_dir_all("/run/netns")?;
    let mut modules: Vec<_> = fs::read_dir(MODULES)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    modules.sort();
    for module in &modules {
        machine::load_module(module)?;
    }
    let status = Command::new("/bin/ip").args(["link", "set", "lo", "up"]).status()?;
    ensure!(status.success(), "cannot set lo up");
    if Path::new(GUEST_FRR).is_dir() {
        let folders = ["/etc/frr", "/run/frr", "/var/lib/frr", "/var/log/frr"];
        output(Command::new("/bin/chroot").args([GUEST_FRR, "/usr/bin/chown", "frr:frr"]).args(folders))?;
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("{MARK} Linux {}", kernel.trim());
    Ok(())
}

/// What only the first process of a machine does.
#[expect(unsafe_code, reason = "system calls and an instruction that no crate wraps")]
mod machine {
    use std::path::Path;

    use anyhow::{Context as _, Result, ensure};

    /// Where QEMU's isa-debug-exit listens.
    const PORT: u16 = 0xf4;

    /// Loads a module into the kernel (finit_module(2)).
    pub(super) fn load_module(path: &Path) -> Result<()> {
        use std::os::fd::AsRawFd as _;
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        // SAFETY: the descriptor is open during the call, and the parameters are an empty C string.
        let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        let error = std::io::Error::last_os_error();
        ensure!(result == 0, "cannot load {}: {error}", path.display());
        Ok(())
    }

    /// Ends the machine; QEMU's exit status is twice the code and one.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn exit(code: u8) -> Result<()> {
        // SAFETY: ioperm only changes what this process may do; the port belongs to isa-debug-exit, which ends the
        // machine.
        unsafe {
            ensure!(libc::ioperm(PORT.into(), 4, 1) == 0, "ioperm: {}", std::io::Error::last_os_error());
            std::arch::asm!("out dx, al", in("dx") PORT, in("al") code);
        }
        Ok(())
    }

    /// There are guests for x86-64 only.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn exit(_code: u8) -> Result<()> {
        anyhow::bail!("no isa-debug-exit at {PORT} on this architecture")
    }
}
