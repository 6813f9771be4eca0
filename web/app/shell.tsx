// What is around every page: the head with search and tasks, navigation by noun, the banner while the daemon is away, and
// what went wrong of what was done here.
import {
  ActionIcon,
  Alert,
  AppShell,
  Box,
  Burger,
  Group,
  Indicator,
  Kbd,
  Stack,
  Text,
  Tooltip,
  UnstyledButton,
} from '@mantine/core';
import { useDisclosure, useHotkeys } from '@mantine/hooks';
import { Outlet, useLocation } from '@tanstack/react-router';
import { BookOpen, Keyboard, ListChecks, Search, WifiOff } from 'lucide-react';
import { Suspense, useEffect, useState } from 'react';
import { lazyPart } from '../data/part.ts';
import { roleAllows } from '../../src/api/permission.ts';
import { useSignIn } from '../data/client.ts';
import { useIsAway } from '../data/live.ts';
import { closeFailure, closeFailures, useFailures } from '../data/outcome.ts';
import { useText } from '../i18n/language.ts';
import { useActiveTasks } from '../task/task-queries.ts';
import { Failure } from '../ui/failure.tsx';
import { useLinkTo } from '../ui/link.tsx';
import { AccountMenu } from './account-menu.tsx';
import { nounGroups } from './nouns.ts';
import { useShortcuts } from './shortcuts.ts';

// What is opened now and then is loaded then.
const Palette = lazyPart(async () => (await import('./palette.tsx')).Palette);
const ShortcutSheet = lazyPart(async () => (await import('./shortcut-sheet.tsx')).ShortcutSheet);
const TaskDrawer = lazyPart(async () => (await import('../task/task-drawer.tsx')).TaskDrawer);

export function Shell() {
  const t = useText();
  const [isNavOpen, nav] = useDisclosure(false);
  const [isTasksOpen, tasks] = useDisclosure(false);
  const [isSheetOpen, sheet] = useDisclosure(false);
  // How often the palette was asked for; the first time loads it.
  const [asked, setAsked] = useState(0);
  const openPalette = (): void => setAsked((count) => count + 1);
  useHotkeys([['mod+K', openPalette]], []);
  const linkTo = useLinkTo();
  const { pathname } = useLocation();
  useShortcuts({ onHelp: sheet.toggle, onTasks: tasks.toggle });
  useEffect(() => {
    nav.close();
    closeFailures();
  }, [pathname, nav.close]);

  return (
    <>
      <a className="skip-link" href="#main">
        {t('shell.skip')}
      </a>
      <AppShell
        header={{ height: 56 }}
        navbar={{ width: 224, breakpoint: 'sm', collapsed: { mobile: !isNavOpen } }}
        padding={{ base: 'sm', sm: 'lg' }}
      >
        <AppShell.Header>
          <Group h="100%" px="md" justify="space-between" wrap="nowrap" gap="sm">
            <Group gap="sm" wrap="nowrap">
              <Burger
                hiddenFrom="sm"
                size="sm"
                opened={isNavOpen}
                onClick={nav.toggle}
                aria-label={t('shell.navigation')}
                aria-expanded={isNavOpen}
              />
              <a className="brand" {...linkTo('/vms')}>
                <img src="/icon.svg" alt="Lodge" />
                <Text span inherit visibleFrom="xs" aria-hidden>
                  Lodge
                </Text>
              </a>
            </Group>
            <SearchButton onClick={openPalette} />
            <Group gap={4} wrap="nowrap">
              <TasksButton onClick={tasks.toggle} />
              <Tooltip label={t('shortcuts.title')}>
                <ActionIcon
                  visibleFrom="sm"
                  variant="subtle"
                  color="gray"
                  size="lg"
                  onClick={sheet.open}
                  aria-label={t('shortcuts.title')}
                >
                  <Keyboard size={19} />
                </ActionIcon>
              </Tooltip>
              <AccountMenu />
            </Group>
          </Group>
        </AppShell.Header>
        <AppShell.Navbar p="sm" aria-label={t('shell.navigation')}>
          <Navigation />
        </AppShell.Navbar>
        <AppShell.Main id="main" tabIndex={-1}>
          <Stack gap="md" maw={1800} mx="auto">
            <AwayBanner />
            <Failures />
            <Outlet />
          </Stack>
        </AppShell.Main>
      </AppShell>
      <Suspense>
        {isTasksOpen && <TaskDrawer onClose={tasks.close} />}
        {isSheetOpen && <ShortcutSheet onClose={sheet.close} />}
        {asked > 0 && <Palette asked={asked} onTasks={tasks.open} onHelp={sheet.open} />}
      </Suspense>
    </>
  );
}

function SearchButton({ onClick }: { onClick: () => void }) {
  const t = useText();
  return (
    <UnstyledButton onClick={onClick} className="card" px="sm" h={36} miw={0} flex="0 1 420px">
      <Group justify="space-between" wrap="nowrap" gap="xs" c="dimmed" h="100%">
        <Group gap={8} wrap="nowrap" miw={0}>
          <Search size={16} />
          <Text fz="sm" truncate>
            {t('palette.open')}
          </Text>
        </Group>
        <Box visibleFrom="sm">
          <Kbd size="xs" aria-hidden>
            Ctrl K
          </Kbd>
        </Box>
      </Group>
    </UnstyledButton>
  );
}

function TasksButton({ onClick }: { onClick: () => void }) {
  const t = useText();
  const { active } = useActiveTasks();
  return (
    <Tooltip label={t('tasks.drawer')}>
      <Indicator label={active.length} size={16} disabled={active.length === 0} processing offset={5}>
        <ActionIcon
          variant="subtle"
          color="gray"
          size="lg"
          onClick={onClick}
          aria-label={`${t('tasks.drawer')}: ${active.length}`}
        >
          <ListChecks size={19} />
        </ActionIcon>
      </Indicator>
    </Tooltip>
  );
}

function Navigation() {
  const t = useText();
  const { pathname } = useLocation();
  const { session } = useSignIn();
  const linkTo = useLinkTo();
  return (
    <Stack gap={2} h="100%" style={{ overflowY: 'auto' }}>
      {nounGroups.map((group, index) => {
        const entries = group.entries.filter(
          ({ permission }) => session !== null && roleAllows(session.role, permission),
        );
        if (entries.length === 0) return null;
        return (
          <Box
            key={group.label ?? index}
            role="group"
            aria-label={group.label === null ? t('nav.main') : t(group.label)}
          >
            {group.label !== null && <div className="nav-group">{t(group.label)}</div>}
            {entries.map(({ path, label, icon: Icon }) => (
              <a
                key={path}
                className="nav-link"
                aria-current={pathname === path || pathname.startsWith(`${path}/`) ? 'page' : undefined}
                {...linkTo(path)}
              >
                <Icon size={17} aria-hidden />
                {t(label)}
              </a>
            ))}
          </Box>
        );
      })}
      <Box mt="auto" pt="md">
        <a className="nav-link" href="/docs" target="_blank" rel="noreferrer">
          <BookOpen size={17} aria-hidden />
          {t('nav.api')}
        </a>
      </Box>
    </Stack>
  );
}

function AwayBanner() {
  const t = useText();
  const isAway = useIsAway();
  return (
    <div role="status" aria-live="polite">
      {isAway && (
        <Alert color="yellow" icon={<WifiOff size={18} />} title={t('away.title')}>
          {t('away.text')}
        </Alert>
      )}
    </div>
  );
}

function Failures() {
  const failures = useFailures();
  return (
    <>
      {failures.map((failure) => (
        <Failure key={failure.message} failure={failure} onClose={() => closeFailure(failure)} />
      ))}
    </>
  );
}
