// The console's beginning: language first, so that nothing is drawn twice, then the application.
import './style-nonce.ts';
import '@mantine/core/styles.layer.css';
import './app/app.css';
import { createRoot } from 'react-dom/client';
import { App } from './app/app.tsx';
import { startLanguage } from './i18n/language.ts';

// A console that was built anew no longer has the files of the old one: the page is loaded again, once.
window.addEventListener('vite:preloadError', (event) => {
  const last = Number(sessionStorage.getItem('lodge-reload') ?? 0);
  if (Date.now() - last < 10_000) return;
  event.preventDefault();
  sessionStorage.setItem('lodge-reload', String(Date.now()));
  location.reload();
});

await startLanguage();
const root = document.getElementById('root');
if (root !== null) createRoot(root).render(<App />);
