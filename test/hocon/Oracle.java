import com.typesafe.config.*;
import java.io.*;
import java.net.URL;
import java.nio.charset.StandardCharsets;

/*
 * Typesafe Config as Spark Job Server uses it, but without includes and environment. stdin: texts in UTF-8, before each a line
 * with its length in bytes. stdout: one line for each text, "value JSON" or "error LINE CLASS: MESSAGE" (line 0: none known).
 */
public class Oracle {
    static class NoIncludes implements ConfigIncluder, ConfigIncluderFile, ConfigIncluderURL, ConfigIncluderClasspath {
        static ConfigObject refuse() {
            throw new ConfigException.Generic("includes are off");
        }
        public ConfigIncluder withFallback(ConfigIncluder fallback) {
            return this;
        }
        public ConfigObject include(ConfigIncludeContext context, String what) {
            return refuse();
        }
        public ConfigObject includeFile(ConfigIncludeContext context, File what) {
            return refuse();
        }
        public ConfigObject includeURL(ConfigIncludeContext context, URL what) {
            return refuse();
        }
        public ConfigObject includeResources(ConfigIncludeContext context, String what) {
            return refuse();
        }
    }

    static final ConfigParseOptions OPTIONS =
        ConfigParseOptions.defaults().setSyntax(ConfigSyntax.CONF).setIncluder(new NoIncludes());

    static String answer(String text) {
        try {
            Config config = ConfigFactory.parseString(text, OPTIONS).resolve(ConfigResolveOptions.noSystem());
            return "value " + config.root().render(ConfigRenderOptions.concise());
        } catch (ConfigException e) {
            int line = e.origin() == null ? 0 : Math.max(0, e.origin().lineNumber());
            return "error " + line + " " + e.getClass().getSimpleName() + ": " + e.getMessage();
        } catch (StackOverflowError e) {
            return "error 0 StackOverflowError: ";
        } catch (RuntimeException e) { // its own faults
            return "error 0 " + e.getClass().getSimpleName() + ": " + e.getMessage();
        }
    }

    /* One line, in which half a surrogate pair, that UTF-8 cannot hold, is an escape of JSON. */
    static void print(String answer, PrintStream out) {
        StringBuilder line = new StringBuilder();

        for (int i = 0; i < answer.length(); i++) {
            char c = answer.charAt(i);

            if (Character.isHighSurrogate(c) && i + 1 < answer.length() && Character.isLowSurrogate(answer.charAt(i + 1)))
                line.append(c).append(answer.charAt(++i));
            else if (Character.isSurrogate(c) || c == '\n' || c == '\r')
                line.append(String.format("\\u%04x", (int) c));
            else
                line.append(c);
        }
        out.print(line.append('\n'));
    }

    static int length(InputStream in) throws IOException {
        int n = 0, c;

        while ((c = in.read()) >= '0' && c <= '9')
            n = n * 10 + c - '0';
        return c < 0 ? -1 : n;
    }

    public static void main(String[] args) throws IOException {
        InputStream in = new BufferedInputStream(System.in);
        PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), false, "UTF-8");
        PrintStream buffered = new PrintStream(new BufferedOutputStream(out, 1 << 16), false, "UTF-8");

        for (int n; (n = length(in)) >= 0;) {
            print(answer(new String(in.readNBytes(n), StandardCharsets.UTF_8)), buffered);
            if (in.available() == 0)
                buffered.flush();
        }
        buffered.flush();
    }
}
