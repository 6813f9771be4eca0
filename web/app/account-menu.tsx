// Who has signed in, language, colours, and signing out.
import { ActionIcon, Menu, Text, useMantineColorScheme } from '@mantine/core';
import { Languages, LogOut, Moon, Sun, SunMoon, User } from 'lucide-react';
import { closeSession, useSignIn } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { chooseLanguage, currentLanguage, languages, useText, type Language } from '../i18n/language.ts';

export function AccountMenu() {
  const t = useText();
  const { session } = useSignIn();
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const signOut = useAction(closeSession);
  const schemes = [
    ['auto', t('theme.auto'), SunMoon],
    ['light', t('theme.light'), Sun],
    ['dark', t('theme.dark'), Moon],
  ] as const;
  return (
    <Menu position="bottom-end" width={250}>
      <Menu.Target>
        <ActionIcon variant="subtle" color="gray" size="lg" aria-label={t('account.title')}>
          <User size={19} />
        </ActionIcon>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Label>
          <Text span fz="sm" fw={600} c="var(--mantine-color-text)" className="break">
            {session?.caller}
          </Text>{' '}
          <Text span fz="xs" c="dimmed">
            {session?.role}
          </Text>
        </Menu.Label>
        <Menu.Divider />
        {(Object.keys(languages) as Language[]).map((language) => (
          <Menu.Item
            key={language}
            leftSection={<Languages size={15} />}
            rightSection={language === currentLanguage() ? '✓' : null}
            lang={language === 'zh' ? 'zh-Hans' : 'en'}
            onClick={() => void chooseLanguage(language)}
          >
            {languages[language]}
          </Menu.Item>
        ))}
        <Menu.Divider />
        {schemes.map(([scheme, label, Icon]) => (
          <Menu.Item
            key={scheme}
            leftSection={<Icon size={15} />}
            rightSection={colorScheme === scheme ? '✓' : null}
            onClick={() => setColorScheme(scheme)}
          >
            {label}
          </Menu.Item>
        ))}
        <Menu.Divider />
        <Menu.Item leftSection={<LogOut size={15} />} onClick={() => signOut.mutate(false)}>
          {t('account.sign-out')}
        </Menu.Item>
        <Menu.Item leftSection={<LogOut size={15} />} onClick={() => signOut.mutate(true)}>
          {t('account.sign-out-everywhere')}
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}
