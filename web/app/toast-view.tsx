// Shows toasts. It is loaded with the first one, into a place of its own beside the application.
import '@mantine/notifications/styles.layer.css';
import { MantineProvider } from '@mantine/core';
import { notifications, Notifications } from '@mantine/notifications';
import { createRoot } from 'react-dom/client';
import { say } from '../i18n/language.ts';
import { theme, variables } from './theme.ts';

/** They go away by themselves, milliseconds. */
const shownMs = 7000;

const place = document.createElement('div');
document.body.append(place);
createRoot(place).render(
  <MantineProvider theme={theme} cssVariablesResolver={variables} defaultColorScheme="auto">
    <Notifications position="bottom-right" limit={4} />
  </MantineProvider>,
);

export function showToast({ color, title, message }: { color: string; title: string; message: string }): void {
  notifications.show({
    color,
    title,
    message,
    autoClose: shownMs,
    withBorder: true,
    closeButtonProps: { 'aria-label': say('common.close') },
  });
}
