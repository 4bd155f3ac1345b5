//! Whether what was sent over a connection has come to its other end, as the kernel says.

use std::fs;
use std::net::SocketAddr;

/// Whether the kernel of the other end has acknowledged all that was written to the connection from `from` to `to`; none
/// when the kernel does not tell. From `/proc/net/tcp` (proc(5)), which has a line for each connection of the machine.
pub fn all_arrived(from: SocketAddr, to: SocketAddr) -> Option<bool> {
    let table = fs::read_to_string(if from.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" }).ok()?;
    waiting(&table, &hex(from), &hex(to)).map(|bytes| bytes == 0)
}

/// Bytes that are written and not acknowledged.
fn waiting(table: &str, from: &str, to: &str) -> Option<u64> {
    let mut fields = table.lines().map(|line| line.split_whitespace().skip(1));
    let mut queues = fields.find(|fields| fields.clone().take(2).eq([from, to]))?.skip(3);
    u64::from_str_radix(queues.next()?.split(':').next()?, 16).ok()
}

/// As that table writes it: words of 32 bits in the machine's own order, and the port.
fn hex(address: SocketAddr) -> String {
    let word = |bytes: &[u8]| format!("{:08X}", u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let ip: String = match address {
        SocketAddr::V4(v4) => word(&v4.ip().octets()),
        SocketAddr::V6(v6) => v6.ip().octets().chunks(4).map(word).collect(),
    };
    format!("{ip}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_table_is_read_as_the_kernel_writes_it() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:0539 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 1 1 0 100\n   \
                     1: 0100007F:C350 0100007F:0539 01 0000002A:00000000 01:00000014 00000003     0        0 2 2 0 20\n";
        assert_eq!(waiting(table, "0100007F:C350", "0100007F:0539"), Some(42));
        assert_eq!(waiting(table, "0100007F:0539", "0100007F:C350"), None);
    }

    #[test]
    fn what_a_process_has_not_read_has_arrived_and_what_finds_no_room_has_not() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // Nobody accepts: the kernel does.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let arrived = |stream: &TcpStream| all_arrived(stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            stream.write_all(b"GET").unwrap();
            assert_eq!(arrived(&stream), Some(true), "{address}");
            stream.set_nonblocking(true).unwrap();
            while stream.write(&[0; 65_536]).is_ok() {}
            assert_eq!(arrived(&stream), Some(false), "{address}");
        }
    }
}
