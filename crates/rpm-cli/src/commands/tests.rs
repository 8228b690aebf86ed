//! What needs no daemon.

use super::*;

#[test]
fn the_address_of_the_logs() {
    assert_eq!(logs_path(None, 15, true), "/v1/logs?lines=15&follow=true");
    assert_eq!(
        logs_path(Some("a b&c"), 0, false),
        "/v1/logs?lines=0&follow=false&target=a%20b%26c"
    );
}
