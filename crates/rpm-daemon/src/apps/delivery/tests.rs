//! How each kind of program gets its port, and which path its connections take.

use super::*;

const PROGRAMS: [(&str, Runtime); 6] = [
    ("/usr/bin/node", Runtime::Node),
    ("/usr/bin/nodejs", Runtime::Node),
    ("/opt/node-v22.1.0", Runtime::Node),
    ("/usr/bin/bun", Runtime::Bun),
    ("/srv/nodemon", Runtime::Other),
    ("/app", Runtime::Other),
];
const BALANCES: [Balance; 4] = [Balance::Auto, Balance::Direct, Balance::Handoff, Balance::Proxy];

/// Everything that can be written in a specification and counts here, with the runtime of the program.
fn all() -> Vec<(AppSpec, Runtime)> {
    let mut all = Vec::new();
    for bits in 0_u8..32 {
        let is = |bit: u8| bits & (1 << bit) != 0;
        for (program, runtime) in PROGRAMS {
            for balance in BALANCES {
                let path = program.to_owned();
                let (script, interpreter) = match is(4) {
                    true => ("/srv/app.js".to_owned(), Some(path)),
                    false => (path, None),
                };
                let spec = AppSpec {
                    exec_mode: if is(0) { ExecMode::Cluster } else { ExecMode::Fork },
                    listen: if is(1) { vec!["80".to_owned()] } else { Vec::new() },
                    intercept: is(2),
                    wait_ready: is(3),
                    script,
                    interpreter,
                    balance,
                    ..AppSpec::default()
                };
                all.push((spec, runtime));
            }
        }
    }
    all
}

/// A row of the first table in the documentation of this file. `None`: any.
struct Row {
    mode: ExecMode,
    node: Option<bool>,
    listen: Option<bool>,
    balance: &'static [Balance],
    source: PortSource,
    path: DataPath,
    not_intercepted: DataPath,
}

const UNPROXIED: &[Balance] = &[Balance::Auto, Balance::Direct, Balance::Handoff];

fn rows() -> [Row; 8] {
    use DataPath::{Handoff, Kernel, None as Nothing, Proxy};
    use ExecMode::{Cluster, Fork};
    use PortSource::{Activated, Captured, Node, Single};
    let row = |mode, node, listen, balance, source, path, not_intercepted| Row {
        mode,
        node,
        listen,
        balance,
        source,
        path,
        not_intercepted,
    };
    let (yes, no, proxy) = (Some(true), Some(false), &[Balance::Proxy]);
    [
        row(Fork, None, None, &BALANCES, Single, Kernel, Nothing),
        row(Cluster, None, yes, proxy, Activated, Proxy, Proxy),
        row(Cluster, None, yes, UNPROXIED, Activated, Kernel, Kernel),
        row(Cluster, yes, no, proxy, Node, Proxy, Proxy),
        row(Cluster, yes, no, &[Balance::Handoff], Node, Handoff, Handoff),
        row(
            Cluster,
            yes,
            no,
            &[Balance::Auto, Balance::Direct],
            Node,
            Kernel,
            Kernel,
        ),
        row(Cluster, no, no, proxy, Captured, Proxy, Proxy),
        row(Cluster, no, no, UNPROXIED, Captured, Kernel, Nothing),
    ]
}

fn row_of(spec: &AppSpec, runtime: Runtime) -> Row {
    let any = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
    let mut rows = rows().into_iter().filter(|row| {
        row.mode == spec.exec_mode
            && any(row.node, runtime == Runtime::Node)
            && any(row.listen, !spec.listen.is_empty())
            && row.balance.contains(&spec.balance)
    });
    match (rows.next(), rows.next()) {
        (Some(row), None) => row,
        (found, _) => panic!("{} rows for {spec:?}", found.map_or("no", |_| "several")),
    }
}

#[test]
fn every_specification_has_the_port_source_and_the_data_path_of_its_row() {
    for (spec, runtime) in all() {
        let (delivery, row) = (Delivery::of(&spec), row_of(&spec, runtime));
        assert_eq!(
            (delivery.source, delivery.runtime()),
            (row.source, runtime),
            "{spec:?}"
        );
        let wanted = |denied: bool| match denied || !spec.intercept {
            true => row.not_intercepted,
            false => row.path,
        };
        for denied in [None, Some("no seccomp")] {
            let (path, reason) = delivery.explain(denied);
            assert_eq!(path, wanted(denied.is_some()), "{spec:?}, {denied:?}");
            let blames = reason.contains("intercept");
            assert_eq!(blames, path == DataPath::None, "{spec:?}, {denied:?}: {reason}");
        }
        assert_eq!(delivery.is_fronted(), row.path == DataPath::Proxy, "{spec:?}");
        assert_eq!(delivery.is_handed(), row.path == DataPath::Handoff, "{spec:?}");
        assert_eq!(delivery.proxy_sockets() > 0, delivery.is_fronted(), "{spec:?}");
    }
}

/// What follows from a port source; in pairs: for `intercept`, or `intercepted`, no and yes.
struct Follows {
    readiness: [Readiness; 2],
    shares_ports: [bool; 2],
    children_hold_slots: [bool; 2],
    may_be_handed: bool,
    needs_interception: bool,
    wants_interception: [bool; 2],
    shows_readiness: [bool; 2],
    may_carry_agent: [bool; 2],
    expects_agent: bool,
    kernel_counts: [bool; 2],
}

fn follows(source: PortSource) -> Follows {
    use Readiness::{Executed, Listens, Runs};
    let node = Follows {
        readiness: [Listens; 2],
        shares_ports: [true; 2],
        children_hold_slots: [false, true],
        may_be_handed: true,
        needs_interception: false,
        wants_interception: [false, true],
        shows_readiness: [true; 2],
        may_carry_agent: [true; 2],
        expects_agent: true,
        kernel_counts: [false; 2],
    };
    match source {
        PortSource::Node => node,
        PortSource::Activated => Follows {
            readiness: [Executed; 2],
            children_hold_slots: [true; 2],
            may_be_handed: false,
            wants_interception: [false; 2],
            may_carry_agent: [false, true],
            expects_agent: false,
            kernel_counts: [true; 2],
            ..node
        },
        PortSource::Captured => Follows {
            shares_ports: [false, true],
            may_be_handed: false,
            needs_interception: true,
            shows_readiness: [false, true],
            may_carry_agent: [false, true],
            expects_agent: false,
            kernel_counts: [true; 2],
            ..node
        },
        PortSource::Single => Follows {
            readiness: [Executed, Runs],
            shares_ports: [false, true],
            may_be_handed: false,
            may_carry_agent: [false, true],
            expects_agent: false,
            kernel_counts: [false, true],
            ..node
        },
    }
}

#[test]
fn all_else_follows_from_the_pair() {
    for (spec, runtime) in all() {
        let (it, row) = (Delivery::of(&spec), row_of(&spec, runtime));
        let (wanted, given) = (follows(row.source), usize::from(spec.intercept));
        let readiness = match spec.wait_ready {
            true => Readiness::Announces,
            false => wanted.readiness[given],
        };
        assert_eq!(it.readiness(), readiness, "{spec:?}");
        assert_eq!(it.may_be_handed(), wanted.may_be_handed, "{spec:?}");
        assert_eq!(it.speaks_cluster(), wanted.may_be_handed, "{spec:?}");
        assert_eq!(it.is_ready_by_own_listener(), !wanted.may_be_handed, "{spec:?}");
        assert_eq!(it.is_alive_asleep(), !wanted.may_be_handed, "{spec:?}");
        assert_eq!(it.is_single(), spec.exec_mode == ExecMode::Fork, "{spec:?}");
        assert_eq!(it.has_channel(), runtime != Runtime::Other, "{spec:?}");
        assert_eq!(it.needs_interception(), wanted.needs_interception, "{spec:?}");
        assert_eq!(
            it.wants_interception(),
            wanted.wants_interception[given],
            "{spec:?}"
        );
        assert_eq!(
            it.is_hidden(),
            wanted.needs_interception && !spec.intercept,
            "{spec:?}"
        );
        assert_eq!(it.expects_agent(), wanted.expects_agent, "{spec:?}");
        let probed = wanted.may_be_handed || row.path == DataPath::Proxy;
        assert_eq!(it.can_be_probed(), probed, "{spec:?}");
        for at in [0, 1] {
            let on = at == 1;
            let case = format!("{spec:?}, intercepted: {on}");
            assert_eq!(it.shares_ports(on), wanted.shares_ports[at], "{case}");
            assert_eq!(
                it.children_hold_slots(on),
                wanted.children_hold_slots[at],
                "{case}"
            );
            let shows = spec.wait_ready || wanted.shows_readiness[at];
            assert_eq!(it.shows_readiness(on), shows, "{case}");
            assert_eq!(it.may_carry_agent(on), wanted.may_carry_agent[at], "{case}");
            assert_eq!(it.kernel_counts(on), wanted.kernel_counts[at], "{case}");
        }
    }
}

#[test]
fn ports_move_where_their_source_changes_and_not_with_the_path() {
    for (one, one_runtime) in all() {
        for (other, runtime) in all().into_iter().step_by(7) {
            let same = row_of(&one, one_runtime).source == row_of(&other, runtime).source;
            let are = Delivery::of(&one).has_source_of(Delivery::of(&other));
            assert_eq!(are, same, "{one:?} and {other:?}");
        }
    }
}
