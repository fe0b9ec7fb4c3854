//! Recording and restoring sysctls, below a directory that stands for /proc/sys.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::super::KernelError;
use super::super::sysctl::Sysctls;

const FORWARD: &str = "net.ipv4.ip_forward";
const RP_FILTER: &str = "net/ipv4/conf/eth0.100/rp_filter";

struct Lab {
    dir: TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { dir: TempDir::new().expect("a directory") };
        fs::create_dir_all(lab.path("sys/net/ipv4/conf/eth0.100")).expect("directory");
        fs::create_dir(lab.path("state")).expect("directory");
        lab.write("net/ipv4/ip_forward", "0\n");
        lab.write(RP_FILTER, "1\n");
        lab
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn write(&self, key: &str, value: &str) {
        fs::write(self.path("sys").join(key), value).expect("write");
    }

    fn value(&self, key: &str) -> String {
        fs::read_to_string(self.path("sys").join(key)).expect("read").trim().to_owned()
    }

    /// Edits the record as it is on disk.
    fn edit(&self, from: &str, to: &str) {
        let record = fs::read_to_string(self.path("state/sysctls.json")).expect("read");
        assert!(record.contains(from), "{from} is not in {record}");
        fs::write(self.path("state/sysctls.json"), record.replace(from, to)).expect("write");
    }

    fn open(&self) -> Sysctls {
        Sysctls::open_at(&self.path("sys"), &self.path("state")).expect("open")
    }
}

#[test]
fn the_first_value_is_the_one_restored_even_by_a_later_process() {
    let lab = Lab::new();
    let mut sysctls = lab.open();
    sysctls.set(RP_FILTER, "2").expect("set");
    sysctls.set(RP_FILTER, "0").expect("set");
    sysctls.set(FORWARD, "1").expect("set");
    assert_eq!((lab.value(RP_FILTER), sysctls.get(FORWARD).expect("get")), ("0".to_owned(), "1".to_owned()));
    let mut later = lab.open();
    assert_eq!(
        later.recorded().collect::<Vec<_>>(),
        [("net/ipv4/conf/eth0.100/rp_filter", "1"), ("net/ipv4/ip_forward", "0")]
    );
    later.restore(RP_FILTER).expect("restore");
    assert_eq!((lab.value(RP_FILTER), lab.value("net/ipv4/ip_forward")), ("1".to_owned(), "1".to_owned()));
    later.restore_all().expect("restore");
    assert_eq!(lab.value("net/ipv4/ip_forward"), "0");
    assert_eq!(lab.open().recorded().count(), 0);
}

#[test]
fn what_has_the_value_already_is_not_ours_to_restore() {
    let lab = Lab::new();
    let mut sysctls = lab.open();
    sysctls.set(FORWARD, "0").expect("set");
    assert_eq!(sysctls.recorded().count(), 0);
    assert!(!lab.path("state/sysctls.json").exists());
}

#[test]
fn what_somebody_changed_since_and_what_is_gone_is_left_alone() {
    let lab = Lab::new();
    let mut sysctls = lab.open();
    sysctls.set(FORWARD, "1").expect("set");
    sysctls.set(RP_FILTER, "2").expect("set");
    lab.write("net/ipv4/ip_forward", "7\n");
    fs::remove_dir_all(lab.path("sys/net/ipv4/conf/eth0.100")).expect("remove");
    sysctls.restore_all().expect("restore");
    assert_eq!(lab.value("net/ipv4/ip_forward"), "7");
    assert_eq!(lab.open().recorded().count(), 0);
}

/// A write that fails leaves what a kill before it leaves.
#[test]
fn a_change_that_a_kill_interrupted_is_put_back() {
    const UNWRITABLE: &str = "/proc/sys/kernel/osrelease";
    let lab = Lab::new();
    let file = lab.path("sys").join(RP_FILTER);
    let ours = fs::read_to_string(UNWRITABLE).expect("read");
    lab.open().set(RP_FILTER, ours.trim()).expect("set");
    fs::remove_file(&file).expect("remove");
    std::os::unix::fs::symlink(UNWRITABLE, &file).expect("link");
    lab.open().set(RP_FILTER, "0").expect_err("nobody can write it");
    fs::remove_file(&file).expect("remove");
    lab.write(RP_FILTER, &ours);
    lab.open().restore_all().expect("restore");
    assert_eq!(lab.value(RP_FILTER), "1");
}

#[test]
fn the_record_of_another_boot_is_worth_nothing() {
    let lab = Lab::new();
    let mut sysctls = lab.open();
    sysctls.set(RP_FILTER, "2").expect("set");
    sysctls.set(FORWARD, "1").expect("set");
    lab.edit("\"boot\": \"", "\"boot\": \"another ");
    // What sysctl.d says since then.
    lab.write(RP_FILTER, "0\n");
    let mut after = lab.open();
    assert_eq!(after.recorded().count(), 0);
    after.set(RP_FILTER, "2").expect("set");
    after.restore_all().expect("restore");
    assert_eq!((lab.value(RP_FILTER), lab.value("net/ipv4/ip_forward")), ("0".to_owned(), "1".to_owned()));
}

#[test]
fn a_record_of_an_earlier_version_is_read() {
    let lab = Lab::new();
    let record = format!("{{\"{RP_FILTER}\": {{\"original\": \"1\", \"ours\": \"2\"}}}}");
    fs::write(lab.path("state/sysctls.json"), record).expect("write");
    lab.write(RP_FILTER, "2\n");
    lab.open().restore_all().expect("restore");
    assert_eq!(lab.value(RP_FILTER), "1");
}

/// The loopback interface, which every namespace has, stands for one that was renamed.
#[test]
fn a_value_is_put_back_where_its_interface_took_it() {
    let lab = Lab::new();
    let (was, is) = ("net/ipv4/conf/wan/rp_filter", "net/ipv4/conf/lo/rp_filter");
    for name in ["lo", "wan"] {
        fs::create_dir_all(lab.path("sys/net/ipv4/conf").join(name)).expect("directory");
    }
    lab.write(is, "1\n");
    lab.write(was, "1\n");
    lab.open().set(is, "2").expect("set");
    lab.edit("conf/lo/", "conf/wan/");
    let mut sysctls = lab.open();
    assert_eq!(sysctls.recorded().collect::<Vec<_>>(), [(is, "1")]);
    // Another interface has the old name now, and a record of its own.
    lab.write(was, "0\n");
    sysctls.set(was, "2").expect("set");
    sysctls.restore(is).expect("restore");
    assert_eq!((lab.value(is), lab.value(was)), ("1".to_owned(), "2".to_owned()));
    sysctls.restore_all().expect("restore");
    assert_eq!(lab.value(was), "0");
}

#[test]
fn keys_stay_below_the_root() {
    let mut sysctls = Lab::new().open();
    for key in ["", "/etc/passwd", "net/../../../etc/passwd", "../x", "./x"] {
        let refused = sysctls.set(key, "1").expect_err("refused");
        assert!(matches!(refused, KernelError::SysctlKey { .. }), "{key}: {refused}");
    }
}

#[test]
fn a_missing_interface_and_a_broken_record_are_named() {
    let lab = Lab::new();
    let missing = lab.open().set("net/ipv4/conf/eth9/rp_filter", "2").expect_err("no such interface");
    assert!(missing.is_absent() && missing.to_string().contains("conf/eth9/rp_filter"), "{missing}");
    fs::write(lab.path("state/sysctls.json"), "{").expect("write");
    let broken = Sysctls::open_at(&lab.path("sys"), &lab.path("state")).expect_err("broken");
    assert!(broken.to_string().contains("sysctls.json: not a record of changes"), "{broken}");
}
