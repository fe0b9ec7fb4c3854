use super::*;
use crate::intent;

fn imports(from: u32) -> Vec<Import> {
    let text = format!(
        "apiVersion: backtrail.dev/v1alpha1\nkind: RouteImport\nmetadata: {{name: learn}}\n\
         spec: {{from: {{table: {from}}}, into: {{table: Main}}, action: Observe, allowed: {{mode: All}}}}\n"
    );
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    let built = intent::build(&intent::load(file.path()).unwrap(), &std::collections::BTreeMap::new(), None);
    assert_eq!(built.imports.len(), 1, "{:?}", built.objects);
    built.imports
}

fn zebra(module: bool, version: Option<Version>) -> Zebra {
    Zebra::Seen { module, version }
}

/// Reason and message; both empty when nothing lacks.
fn said(zebra: &Zebra, connected: bool, announced: &[u32], from: u32) -> (&'static str, String) {
    let known = Known {
        listen: "127.0.0.1:2620".parse().unwrap(),
        connected,
        announced: &announced.iter().copied().collect(),
        vrfs: &BTreeSet::from([10]),
        imports: &imports(from),
    };
    lack(zebra, &known).map_or(("", String::new()), |lack| (lack.reason, lack.message))
}

#[test]
fn who_imports_nothing_needs_no_frr() {
    let known = Known {
        listen: "127.0.0.1:2620".parse().unwrap(),
        connected: false,
        announced: &BTreeSet::new(),
        vrfs: &BTreeSet::new(),
        imports: &[],
    };
    assert_eq!(lack(&Zebra::Absent, &known), None);
}

#[test]
fn without_a_session_it_says_what_is_missing() {
    let with = zebra(true, Some(Version(10, 3)));
    for (zebra, reason, fix) in [
        (&Zebra::Absent, "FRRNotRunning", "start FRR"),
        (&Zebra::Hidden, "ModuleOrAddressMissing", "-M dplane_fpm_nl"),
        (&Zebra::Hidden, "ModuleOrAddressMissing", "fpm address 127.0.0.1 port 2620"),
        (&zebra(false, None), "ModuleNotLoaded", "-M dplane_fpm_nl"),
        (&with, "AddressNotConfigured", "rawConfig"),
        (&zebra(true, Some(Version(8, 1))), "FRRTooOld", "8.4 or newer"),
    ] {
        let (is, message) = said(zebra, false, &[], 254);
        assert_eq!(is, reason, "{message}");
        assert!(message.contains(fix), "{message}");
    }
}

#[test]
fn with_a_session_it_compares_tables() {
    for (zebra, announced, from, reason, fix) in [
        // As it should be, or too early to say.
        (&Zebra::Hidden, &[5000][..], 5000, "", ""),
        (&Zebra::Hidden, &[254, 10], 254, "", ""),
        (&Zebra::Hidden, &[], 5000, "", ""),
        // An FRR VRF without a route.
        (&Zebra::Hidden, &[254], 10, "", ""),
        (&Zebra::Hidden, &[254], 5000, "RoutingTableMismatch", "add `-R 5000`"),
        (&zebra(false, Some(Version(8, 4))), &[254], 5000, "RoutingTableMismatch", "upgrade to 9.1"),
        (&Zebra::Hidden, &[10, 6000], 5000, "RoutingTableMismatch", "from: {table: 6000}"),
        (&Zebra::Hidden, &[5000], 254, "RoutingTableMismatch", "from: {table: 5000}"),
    ] {
        let (is, message) = said(zebra, true, announced, from);
        assert_eq!(is, reason, "{announced:?} {from}: {message}");
        assert!(
            message.contains(fix) && message.contains("RouteImport/learn") != reason.is_empty(),
            "{message}"
        );
    }
}
