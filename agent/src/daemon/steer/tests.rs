use std::fs::OpenOptions;

use nix::sys::stat::Mode;

use super::*;

/// What the loader waits for.
const GATE: &str = "gate";

/// Loads an object that the kernel takes long over, and refuses.
fn refused(bpffs: &Path, _: SteeringOptions) -> Opened {
    let source = std::fs::File::open(bpffs.join(GATE)).and_then(|_| Err(std::io::ErrorKind::Other.into()));
    source.map_err(|source| SteeringError::System { call: "loading", source })
}

#[tokio::test]
async fn a_refused_object_is_loaded_aside_and_ever_less_often() {
    let folder = tempfile::tempdir().unwrap();
    // Opened for reading, it blocks until somebody writes: what the folder holds is taken for pins.
    nix::unistd::mkfifo(&folder.path().join(GATE), Mode::S_IRWXU).unwrap();
    let release = || drop(OpenOptions::new().write(true).open(folder.path().join(GATE)).unwrap());
    let mut steerer = Steerer::with(folder.path(), refused);
    let plan = SteeringPlan::default();
    let mut now = Instant::now();
    let mut delays = Vec::new();
    for _ in 0..8 {
        steerer.apply(&plan, now);
        assert!(steerer.is_opening() && steerer.retry_at().is_none(), "the loader is at the gate");
        release();
        let opened = steerer.opening().await;
        steerer.opened(opened, now);
        let due = steerer.retry_at().unwrap();
        let trouble = steerer.trouble().unwrap();
        let delay = (due - now).as_secs();
        assert_eq!(trouble.reason, reason::LOAD_FAILED);
        assert!(trouble.message.ends_with(&format!("tried again after {delay} s")), "{}", trouble.message);
        delays.push(delay);
        // Links that flap meanwhile do not load it again.
        steerer.apply(&SteeringPlan { sink: !plan.sink, ..plan.clone() }, due - Duration::from_millis(1));
        assert!(!steerer.is_opening());
        now = due;
    }
    assert_eq!(delays, [5, 10, 20, 40, 80, 160, 300, 300]);
}
