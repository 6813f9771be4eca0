// A list without anything in it: what would be here, and how it gets here.
import { Box, Stack, Text, Title } from '@mantine/core';
import { type ReactNode } from 'react';

export function Empty({
  icon,
  title,
  text,
  action,
}: {
  icon: ReactNode;
  title: string;
  text: string;
  action?: ReactNode;
}) {
  return (
    <Box className="card" p="xl">
      <Stack align="center" gap="sm" py="xl" ta="center">
        <Box c="dimmed" aria-hidden>
          {icon}
        </Box>
        <Title order={2} fz={18}>
          {title}
        </Title>
        <Text c="dimmed" maw={460} fz="sm">
          {text}
        </Text>
        {action}
      </Stack>
    </Box>
  );
}
