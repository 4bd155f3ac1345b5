//! `tandem init`, `invite`, `revoke`, `trust`: who belongs to the fleet. None of them needs a running node.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tandem_trust::{Folder, Founder, Identity, MemberInfo, OpenInvitation};
use tandem_types::{Fault, NodeName, Timestamp};

use crate::cli::{InitArgs, InviteArgs, RevokeArgs, TrustArgs};
use crate::fleet::planned;
use crate::place::Place;
use crate::{Outcome, style};

fn folder(place: &Place) -> Result<Folder, Fault> {
    Folder::open(place.layout.trust())
}

pub(crate) fn init(args: &InitArgs, place: &Place) -> Outcome {
    let planned = planned(&args.fleet, Some(place))?;
    let folder = folder(place)?;
    place.layout.make()?;
    let founder = Founder::init(&folder, &planned.plan.name, &planned.node, SystemTime::now())?;
    if let Some(link) = planned.plan.nodes.get(&planned.node).and_then(|node| node.link) {
        let ways = std::iter::once(link.overlay).chain(link.lan);
        founder.set_addresses(&ways.map(|address| address.to_string()).collect::<Vec<_>>())?;
    }
    place.layout.keep_fleet(&planned.source.text)?;
    let fleet = founder.fleet()?;
    anstream::println!(
        "{} {} has founded the fleet {}",
        style::good("✔"),
        style::bold(fleet.node.as_str()),
        fleet.name
    );
    let path = folder.path().display();
    anstream::println!("  its key is in {path}: keep a copy elsewhere, and let nobody read it");
    let others: Vec<&NodeName> = planned.plan.nodes.keys().filter(|node| **node != planned.node).collect();
    match others[..] {
        [] => anstream::println!("  {} has no other node to invite", planned.source.name),
        _ => {
            others.iter().for_each(|node| anstream::println!("next: {}", style::bold(&format!("tandem invite {node}"))))
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The command for the other machine goes to standard output alone, so that it can be piped; what a person is to know goes beside it.
pub(crate) fn invite(args: &InviteArgs, place: &Place) -> Outcome {
    let founder = Founder::open(&folder(place)?)?;
    let invitation = founder.invite(&args.node, args.lifetime, &args.addresses, SystemTime::now())?;
    anstream::println!("tandem join {}", invitation.text());
    let (node, life) = (style::bold(args.node.as_str()), span(args.lifetime));
    let at = invitation.addresses.join(", ");
    anstream::eprintln!("type this on {node} within {life}; it reaches this machine at {at}");
    anstream::eprintln!("it lets one machine in, once: whoever reads it can be that machine");
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn revoke(args: &RevokeArgs, place: &Place) -> Outcome {
    let founder = Founder::open(&folder(place)?)?;
    let crl = founder.revoke(&args.node, SystemTime::now())?;
    let node = style::bold(args.node.as_str());
    anstream::println!("{} {node} is shut out: list {} of revoked certificates", style::good("✔"), crl.number);
    anstream::println!("  a running node tells the other members; `tandem invite {}` lets it come back", args.node);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn show(args: &TrustArgs, place: &Place) -> Outcome {
    let (folder, now) = (folder(place)?, SystemTime::now());
    let fleet = folder.need_fleet()?;
    let identity = Identity::load(&folder)?;
    let founder = if fleet.is_founder() { Some(Founder::open(&folder)?) } else { None };
    let members = founder.as_ref().map(Founder::members).transpose()?.unwrap_or_default();
    let invited = founder.as_ref().map(|f| f.invitations(now)).transpose()?.unwrap_or_default();
    if args.json {
        let micros = |time: SystemTime| Timestamp::from(time).micros();
        let members = members.iter().map(|m| {
            json!({
                "node": m.node, "founder": m.founder, "joined_at": micros(m.joined_at),
                "certificate_ends": m.certificate_ends.map(micros), "revoked_at": m.revoked_at.map(micros),
            })
        });
        let invited = invited.iter().map(|i| json!({ "node": i.node, "ends_at": micros(i.ends_at) }));
        anstream::println!(
            "{:#}",
            json!({
                "fleet": fleet, "certificate_ends": micros(identity.ends()), "crl_number": identity.crl_number(),
                "members": members.collect::<Vec<_>>(), "invited": invited.collect::<Vec<_>>(),
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    anstream::println!("fleet {} {}", style::bold(&fleet.name), style::dim(fleet.id.as_str()));
    let role =
        if fleet.is_founder() { "founded it".to_owned() } else { format!("joined it; {} founded it", fleet.founder) };
    anstream::println!("  this machine is {}, which {role}", style::bold(fleet.node.as_str()));
    anstream::println!("  its certificate {}", holds(identity.ends(), now));
    let names = members.iter().map(|member| &member.node).chain(invited.iter().map(|open| &open.node));
    let width = names.map(|node| node.as_str().len()).max().unwrap_or(0);
    members.iter().for_each(|member| anstream::println!("{}", member_line(member, width, now)));
    invited.iter().for_each(|open| anstream::println!("{}", invited_line(open, width, now)));
    if !fleet.is_founder() {
        anstream::println!("  {}", style::dim(&format!("who else is a member: `tandem trust` on {}", fleet.founder)));
    }
    Ok(ExitCode::SUCCESS)
}

fn member_line(member: &MemberInfo, width: usize, now: SystemTime) -> String {
    let node = member.node.as_str();
    let state = match (member.revoked_at, member.certificate_ends) {
        (Some(at), _) => style::bad(&format!("revoked {} ago", ago(at, now))),
        (None, Some(ends)) => holds(ends, now),
        (None, None) => style::warn("its certificate expired long ago; it renews it when it is back"),
    };
    let founder = if member.founder { "founder, " } else { "" };
    format!("{node:<width$}  {founder}member for {}; certificate {state}", ago(member.joined_at, now))
}

fn invited_line(open: &OpenInvitation, width: usize, now: SystemTime) -> String {
    let left = open.ends_at.duration_since(now).unwrap_or_default();
    format!("{:<width$}  invited, {} left", open.node.as_str(), span(left))
}

/// How long a certificate holds, from now.
fn holds(ends: SystemTime, now: SystemTime) -> String {
    match ends.duration_since(now) {
        Ok(left) => style::good(&format!("holds for {}", span(left))),
        Err(over) => style::bad(&format!("expired {} ago", span(over.duration()))),
    }
}

fn ago(then: SystemTime, now: SystemTime) -> String {
    span(now.duration_since(then).unwrap_or_default())
}

fn span(time: Duration) -> String {
    style::span(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_member_tells_how_it_stands() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let day = Duration::from_secs(86_400);
        let member = MemberInfo {
            node: "pc2".parse().unwrap(),
            founder: false,
            joined_at: now - 9 * day,
            certificate_ends: Some(now + 5 * day),
            revoked_at: None,
        };
        let of = |member: &MemberInfo| anstream::adapter::strip_str(&member_line(member, 6, now)).to_string();
        assert_eq!(of(&member), "pc2     member for 9 d; certificate holds for 5 d");
        let expired = MemberInfo { certificate_ends: Some(now - 3 * day), ..member.clone() };
        assert!(of(&expired).ends_with("expired 3 d ago"));
        let revoked = MemberInfo { revoked_at: Some(now - day), ..member.clone() };
        assert!(of(&revoked).ends_with("certificate revoked 24 h ago"));
        let founder = MemberInfo { founder: true, ..member };
        assert!(of(&founder).contains("founder, member for"));
        let open = OpenInvitation { node: "pc3".parse().unwrap(), ends_at: now + Duration::from_secs(600) };
        assert_eq!(invited_line(&open, 6, now), "pc3     invited, 10 min left");
    }
}
