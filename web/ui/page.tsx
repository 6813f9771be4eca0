// The frame of every page: its title, what is said of it, what can be done, its tabs, and what went wrong on it.
import { Box, Group, Stack, Text, Title } from '@mantine/core';
import { useDocumentTitle } from '@mantine/hooks';
import { type ReactNode } from 'react';

interface PageProps {
  title: string;
  /** Beside the title, such as a state. */
  badge?: ReactNode;
  subtitle?: ReactNode;
  actions?: ReactNode;
  tabs?: ReactNode;
  children: ReactNode;
}

/** A page. */
export function Page({ title, badge, subtitle, actions, tabs, children }: PageProps) {
  useDocumentTitle(`${title} · Lodge`);
  return (
    <Stack gap="md">
      <Group justify="space-between" align="flex-start" gap="md">
        <Box miw={0} flex="1 1 280px">
          <Group gap="sm" wrap="wrap">
            <Title order={1} fz={24} className="break">
              {title}
            </Title>
            {badge}
          </Group>
          {subtitle !== undefined && (
            <Text c="dimmed" fz="sm" mt={3} className="break" component="div">
              {subtitle}
            </Text>
          )}
        </Box>
        <Group gap="xs">{actions}</Group>
      </Group>
      {tabs}
      {children}
    </Stack>
  );
}

/** A part of a page with a heading of its own. */
export function Section({ title, actions, children }: { title?: string; actions?: ReactNode; children: ReactNode }) {
  return (
    <Box component="section" className="card" p={{ base: 'md', sm: 'lg' }}>
      {(title !== undefined || actions !== undefined) && (
        <Group justify="space-between" mb="sm" gap="xs">
          {title !== undefined && (
            <Title order={2} fz={16}>
              {title}
            </Title>
          )}
          <Group gap="xs">{actions}</Group>
        </Group>
      )}
      {children}
    </Box>
  );
}

/** Names and values. */
export function Facts({ rows }: { rows: readonly (readonly [string, ReactNode])[] }) {
  return (
    <dl className="facts">
      {rows
        .filter(([, value]) => value !== null && value !== undefined && value !== '')
        .map(([name, value]) => (
          <div key={name} style={{ display: 'contents' }}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
    </dl>
  );
}
