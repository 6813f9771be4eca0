// Ports that lead to guests: how people write them, and what lodge vm publish and unpublish make of that.
import { isIP } from 'node:net';
import { forwardText, type PortForward, type PublishedPort } from '../../api/port-forward.ts';
import type { VmSpec } from '../../api/vm-spec.ts';
import { usageError } from '../usage-error.ts';

/** "8080:80", "53:53/udp", "127.0.0.1:8080:80", "[::]:8080:80", "8000-8010:9000", "8080". */
export function parseForward(text: string): PortForward {
  const match =
    /^(?:(?:\[([0-9a-fA-F:.]+)\]|(\d+\.\d+\.\d+\.\d+|\*)):)?(\d{1,5})(?:-(\d{1,5}))?(?::(\d{1,5})(?:-(\d{1,5}))?)?(?:\/(tcp|udp))?$/.exec(
      text.trim(),
    );
  const [, six, four, first, last, guest, guestLast, protocol = 'tcp'] = match ?? [];
  const listenAddress = six ?? (four === '*' ? undefined : four);
  if (match === null || first === undefined || (listenAddress !== undefined && isIP(listenAddress) === 0))
    throw usageError(`${JSON.stringify(text)} is not a forwarded port`, {
      hint: 'Write PORT:GUEST-PORT, such as 8080:80; with an address of the node 127.0.0.1:8080:80 or [::]:8080:80; a range 8000-8010:8000; UDP 53:53/udp.',
    });
  const [port, lastPort, guestPort, guestLastPort] = [first, last, guest, guestLast].map((one) =>
    one === undefined ? undefined : Number(one),
  );
  const isUneven =
    guestLastPort !== undefined && guestLastPort - (guestPort ?? 0) !== (lastPort ?? Number(first)) - Number(first);
  if (isUneven) throw usageError(`${JSON.stringify(text)}: both ranges have as many ports`);
  return {
    protocol: protocol as PortForward['protocol'],
    ...(listenAddress === undefined ? {} : { listenAddress }),
    port: port ?? 0,
    ...(lastPort === undefined || lastPort === port ? {} : { lastPort }),
    ...(guestPort === undefined ? {} : { guestPort }),
  };
}

/** The NICs with a forward more; one that takes the same port of the same address is replaced. */
export function withForward(nics: VmSpec['nics'], index: number, added: PortForward): VmSpec['nics'] {
  const place = forwardText({ ...added, lastPort: null });
  return nics.map((nic, at) => {
    const others = (nic.forwards ?? []).filter((one) => forwardText({ ...one, lastPort: null }) !== place);
    if (at === index) return { ...nic, forwards: [...others, added] };
    return nic.forwards === undefined ? nic : { ...nic, forwards: others };
  });
}

/** The NICs without the forwards that a text means: "8080", "8080/udp", "127.0.0.1:8080", or "all". */
export function withoutForward(nics: VmSpec['nics'], text: string): VmSpec['nics'] {
  const given = text === 'all' ? null : parseForward(text);
  const isMeant = (one: PortForward): boolean =>
    given === null ||
    (one.port === given.port &&
      (one.protocol === given.protocol || !/\/(tcp|udp)$/.test(text)) &&
      (given.listenAddress === undefined || one.listenAddress === given.listenAddress));
  const all = nics.flatMap(({ forwards = [] }) => forwards);
  if (!all.some(isMeant))
    throw usageError(`no forwarded port is meant by ${text}`, {
      hint: all.length === 0 ? 'It has none.' : `It has ${all.map(forwardText).join(', ')}.`,
    });
  return nics.map((nic) => {
    if (nic.forwards === undefined) return nic;
    const forwards = nic.forwards.filter((one) => !isMeant(one));
    const { forwards: _before, ...rest } = nic;
    return forwards.length === 0 ? rest : { ...rest, forwards };
  });
}

/** "*:8080/tcp → 10.88.0.9 port 80", with what is wrong where it doesn't lead there. */
export function publishedText(one: PublishedPort): string {
  const guest = one.guestAddresses.length === 0 ? 'the guest' : one.guestAddresses.join(', ');
  const last = one.lastPort === null ? '' : `-${one.guestPort + one.lastPort - one.port}`;
  return `${forwardText(one)} → ${guest} port ${one.guestPort}${last}${one.state === 'active' ? '' : ` (${one.state}: ${one.reason})`}`;
}
