// Whether a connection would be allowed, by which rule, and why: a form, and the daemon's answer. The question stands in
// the address, so that it can be sent to others. No packet is sent.
import { Autocomplete, Button, Code, List, Select, SimpleGrid, Stack, Table, Text, TextInput } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import { type EffectiveRule, type Explanation } from '../../src/api/firewall.ts';
import { client } from '../data/client.ts';
import { sayOr, useText } from '../i18n/language.ts';
import { Loading } from '../ui/loading.tsx';
import { Page, Section } from '../ui/page.tsx';
import { State } from '../ui/state.tsx';
import { commandOf, explainProtocols, isIcmp, queryOf, questionOf, type ExplainQuestion } from './explain-question.ts';
import { Reference, useProjects, useVmChoice } from './firewall-links.tsx';
import { FirewallTabs } from './firewall-tabs.tsx';

export function ExplainPage() {
  const t = useText();
  const search: Readonly<Record<string, unknown>> = useSearch({ strict: false });
  const asked = questionOf(search);
  const query = queryOf(asked);
  const answer = useQuery({
    queryKey: ['firewall', 'explain', query],
    queryFn: () => (query === null ? null : client.firewall.explain({ query })),
    enabled: query !== null,
    // Rules and addresses change without a word here: each question is asked anew.
    staleTime: 0,
    gcTime: 0,
  });
  return (
    <Page title={t('nav.firewall')} subtitle={t('firewall.explain-text')} tabs={<FirewallTabs current="explain" />}>
      <Question asked={asked} isBusy={answer.isFetching} onAgain={() => void answer.refetch()} />
      <div role="status">
        {query !== null && (answer.isPending || answer.error !== null) && <Loading error={answer.error} />}
        {query !== null && answer.error === null && answer.data && (
          <Answer found={answer.data} question={asked} project={asked.project} />
        )}
      </div>
    </Page>
  );
}

interface QuestionProps {
  asked: ExplainQuestion;
  isBusy: boolean;
  /** The same was asked again. */
  onAgain: () => void;
}

function Question({ asked, isBusy, onAgain }: QuestionProps) {
  const t = useText();
  const navigate = useNavigate();
  const [typed, setTyped] = useState(asked);
  const address = JSON.stringify(asked);
  // The address also changes by going back, or by a link.
  useEffect(() => setTyped(asked), [address]);
  const vms = useVmChoice();
  const projects = useProjects(asked.project);
  const names = vms.filter(({ project }) => project === typed.project).map(({ name }) => name);
  const offered = [...new Set([...names, 'host', 'internet'])];
  const change = (next: Partial<ExplainQuestion>): void => setTyped({ ...typed, ...next });
  const ask = (): void => {
    if (JSON.stringify(typed) === address) onAgain();
    else
      void navigate({ to: '.', search: Object.fromEntries(Object.entries(typed).filter(([, text]) => text !== '')) });
  };
  return (
    <Section>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          ask();
        }}
      >
        <SimpleGrid cols={{ base: 1, sm: 2, lg: 4 }}>
          <Autocomplete
            label={t('firewall.from')}
            description={t('firewall.end-hint')}
            data={offered}
            value={typed.from}
            onChange={(from) => change({ from })}
            maxLength={253}
            limit={50}
            required
          />
          <Autocomplete
            label={t('firewall.to')}
            description={t('firewall.end-hint')}
            data={offered}
            value={typed.to}
            onChange={(to) => change({ to })}
            maxLength={253}
            limit={50}
            required
          />
          <Select
            label={t('firewall.protocol')}
            description={t('firewall.protocol-hint')}
            data={[...explainProtocols]}
            value={typed.protocol}
            onChange={(protocol) => change({ protocol: protocol ?? 'tcp', detail: '' })}
            allowDeselect={false}
          />
          <TextInput
            label={t(isIcmp(typed.protocol) ? 'firewall.icmp-type' : 'firewall.port')}
            description={t('firewall.port-hint')}
            value={typed.detail}
            onChange={(event) => change({ detail: event.currentTarget.value })}
            inputMode="numeric"
            pattern="[0-9]{1,5}"
          />
          {projects.length > 1 && (
            <Select
              label={t('firewall.project')}
              data={projects}
              value={typed.project}
              onChange={(project) => change({ project: project ?? 'default' })}
              allowDeselect={false}
            />
          )}
        </SimpleGrid>
        <Button type="submit" mt="md" loading={isBusy}>
          {t('firewall.ask')}
        </Button>
      </form>
    </Section>
  );
}

function Answer({ found, question, project }: { found: Explanation; question: ExplainQuestion; project: string }) {
  const t = useText();
  // Where no side denies it and it is denied all the same, no way leads there: the whole reason says why.
  const isWayless = found.verdict === 'denied' && !found.sides.some(({ verdict }) => verdict === 'deny');
  return (
    <Section title={`${found.from} → ${found.to}, ${found.connection}`} actions={<State state={found.verdict} />}>
      <Stack gap="sm">
        {isWayless && <Text fz="sm">{found.reason}</Text>}
        {found.sides.length > 0 && (
          <Table.ScrollContainer minWidth={720}>
            <Table verticalSpacing="sm">
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>{t('firewall.vm')}</Table.Th>
                  <Table.Th>{t('firewall.direction')}</Table.Th>
                  <Table.Th>{t('firewall.action')}</Table.Th>
                  <Table.Th>{t('firewall.rule')}</Table.Th>
                  <Table.Th>{t('vm.why')}</Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {found.sides.map(({ vm, nic, direction, verdict, rule, reason }) => (
                  <Table.Tr key={direction}>
                    <Table.Td>
                      {vm === null ? '–' : <Reference path="/vms" project={project} to={vm} isInText />}
                      {nic === null ? null : ` · ${t('firewall.nic')} ${nic}`}
                    </Table.Td>
                    <Table.Td>{sayOr(`firewall.direction.${direction}`, direction)}</Table.Td>
                    <Table.Td>
                      <State state={verdict} />
                    </Table.Td>
                    <Table.Td>
                      <Decider rule={rule} project={project} />
                    </Table.Td>
                    <Table.Td className="break">{reason}</Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
        )}
        {found.notes.length > 0 && (
          <List fz="sm">
            {found.notes.map((note) => (
              <List.Item key={note}>{note}</List.Item>
            ))}
          </List>
        )}
        <div>
          <Code className="break">{commandOf(question)}</Code>
        </div>
      </Stack>
    </Section>
  );
}

/** The rule that decides, with where it comes from. */
function Decider({ rule, project }: { rule: EffectiveRule | null; project: string }) {
  const t = useText();
  if (rule === null) return t('firewall.unfiltered');
  const { kind, name } = rule.origin;
  return (
    <>
      <span className="mono break">{rule.name}</span>
      <Text fz="xs" c="dimmed" component="div" className="break">
        {sayOr(`firewall.origin.${kind}`, kind)}{' '}
        {name !== null && kind === 'security-group' && (
          <Reference path="/firewall/security-groups" project={project} to={name} isInText />
        )}
        {name !== null && kind === 'network-policy' && (
          <Reference path="/networks" project={project} to={name} isInText />
        )}
      </Text>
    </>
  );
}
