// What the guest agent tells, for people.
import { formatBytes } from '../../lib/quantity.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { printDocument } from '../output/print.ts';
import { renderDetails, renderTable } from '../output/table.ts';
import { fetchVms } from './view.ts';

export async function showGuest(session: Session, name: string): Promise<void> {
  const guest = await withSuggestion(session, name, fetchVms, () =>
    session.client.vm.guestInfo({ params: { vm: name }, query: { project: session.project } }),
  );
  const { style } = session.terminal;
  await printDocument(session, guest, () =>
    renderDetails(
      [
        ['Guest agent', guest.agentVersion],
        ['Host name', guest.hostname],
        ['Operating system', guest.os === null ? null : [guest.os.name, guest.os.version].filter(Boolean).join(' ')],
        ['Kernel', guest.os === null ? null : [guest.os.kernel, guest.os.machine].filter(Boolean).join(' ')],
        ['Signed in', guest.users.map((user) => user.name).join(', ')],
        ['Can not tell', guest.missing.join(', ')],
        [
          'Network interfaces',
          renderTable(
            [
              { header: 'NAME', value: (one: (typeof guest.interfaces)[number]) => one.name },
              { header: 'MAC', value: (one) => one.mac ?? '' },
              {
                header: 'ADDRESSES',
                value: (one) => one.addresses.map(({ address, prefix }) => `${address}/${prefix}`).join(' '),
              },
            ],
            guest.interfaces,
            { width: null, style },
          ),
        ],
        [
          'File systems',
          renderTable(
            [
              { header: 'MOUNTED ON', value: (one: (typeof guest.fileSystems)[number]) => one.mountPoint },
              { header: 'DEVICE', value: (one) => one.name },
              { header: 'TYPE', value: (one) => one.type },
              {
                header: 'SIZE',
                value: (one) => (one.totalBytes === null ? '' : formatBytes(one.totalBytes)),
                side: 'right',
              },
              {
                header: 'USED',
                value: (one) => (one.usedBytes === null ? '' : formatBytes(one.usedBytes)),
                side: 'right',
              },
            ],
            guest.fileSystems,
            { width: null, style },
          ),
        ],
      ],
      session.terminal,
    ),
  );
}
