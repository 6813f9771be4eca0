// The firewall of a project: how this node enforces it, what counts where no rule decides, and which NICs it can't filter.
import { Alert, Select, Table } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { TriangleAlert } from 'lucide-react';
import { type ProjectFirewall } from '../../src/api/firewall.ts';
import { client } from '../data/client.ts';
import { formatNumber } from '../i18n/format.ts';
import { sayOr, useText } from '../i18n/language.ts';
import { Loading } from '../ui/loading.tsx';
import { Facts, Page, Section } from '../ui/page.tsx';
import { State } from '../ui/state.tsx';
import { Reference, useProjects } from './firewall-links.tsx';
import { FirewallTabs } from './firewall-tabs.tsx';

/** How often the node is asked again how it enforces, milliseconds: no change tells of that. */
const rereadMs = 5000;

export function FirewallPage() {
  const t = useText();
  const navigate = useNavigate();
  const search: Readonly<Record<string, unknown>> = useSearch({ strict: false });
  const project = typeof search['project'] === 'string' ? search['project'] : 'default';
  const projects = useProjects(project);
  const show = (next: string): void => {
    const wanted: Record<string, string> = { project: next };
    void navigate({ to: '.', search: wanted });
  };
  const { data, error } = useQuery({
    queryKey: ['firewall', 'project', project],
    queryFn: () => client.firewall.get({ query: { project } }),
    refetchInterval: rereadMs,
  });
  return (
    <Page
      title={t('nav.firewall')}
      badge={data === undefined ? undefined : <State state={data.status.state} />}
      subtitle={data?.status.reason}
      tabs={<FirewallTabs current="" />}
      actions={
        projects.length > 1 && (
          <Select
            aria-label={t('firewall.project')}
            data={projects}
            value={project}
            onChange={(next) => show(next ?? 'default')}
            allowDeselect={false}
          />
        )
      }
    >
      {data === undefined ? <Loading error={error} /> : <Overview firewall={data} />}
    </Page>
  );
}

function Overview({ firewall: { project, spec, status } }: { firewall: ProjectFirewall }) {
  const t = useText();
  const policy = (action: 'allow' | 'deny' | undefined, otherwise: string) =>
    action === undefined ? otherwise : <State state={action} />;
  return (
    <>
      {status.problems.map((problem) => (
        <Alert key={problem} color="yellow" icon={<TriangleAlert size={18} />} title={problem} />
      ))}
      <Section title={t('firewall.policy')}>
        <Facts
          rows={[
            [t('firewall.project'), project],
            [t('firewall.direction.ingress'), policy(spec.ingress, t('firewall.ingress-default'))],
            [t('firewall.direction.egress'), policy(spec.egress, t('firewall.egress-default'))],
            [
              t('firewall.every-nic'),
              spec.securityGroups.length === 0
                ? t('firewall.no-group')
                : spec.securityGroups.map((one) => (
                    <span key={one} style={{ marginRight: 8 }}>
                      <Reference path="/firewall/security-groups" project={project} to={one} />
                    </span>
                  )),
            ],
            [t('firewall.host'), t(spec.isHostAllowed === false ? 'firewall.host-by-rules' : 'firewall.host-always')],
          ]}
        />
      </Section>
      <Section title={t('firewall.enforcement')}>
        <Facts
          rows={[
            [t('firewall.filtered'), formatNumber(status.nicCount)],
            [t('firewall.method'), sayOr(`firewall.method.${status.method}`, status.method)],
          ]}
        />
      </Section>
      {status.unfiltered.length > 0 && (
        <Section title={t('firewall.not-filtered')}>
          <Table.ScrollContainer minWidth={480}>
            <Table>
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>{t('firewall.vm')}</Table.Th>
                  <Table.Th>{t('firewall.nic')}</Table.Th>
                  <Table.Th>{t('vm.why')}</Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {status.unfiltered.map(({ vm, nic, reason }) => (
                  <Table.Tr key={`${vm}-${nic}`}>
                    <Table.Td>
                      <Reference path="/vms" project={project} to={vm} />
                    </Table.Td>
                    <Table.Td>{nic}</Table.Td>
                    <Table.Td className="break">{reason}</Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
        </Section>
      )}
    </>
  );
}
